//go:build ring

/* SPDX-License-Identifier: MIT */
#define SLOW_GO
#include "../../ring_responder.c"
