/* Generated from core/ and abi/include/ by tools/amalgamate.py; do not edit. */
/* SPDX-License-Identifier: MIT */
/** @file version.h  Version of the library and of its binary interface. */
#ifndef MANIFUSE_VERSION_H
#define MANIFUSE_VERSION_H

#define MF_VERSION_MAJOR 0
#define MF_VERSION_MINOR 1
#define MF_VERSION_PATCH 0
#define MF_VERSION_STRING "0.1.0"

/** Number in the shared library's soname; grows when a symbol goes away. */
#define MF_ABI_VERSION 0

#if defined(__GNUC__) && !defined(SWIG)
#define MF_API __attribute__((visibility("default")))
#else
#define MF_API
#endif

#endif
