/* SPDX-License-Identifier: MIT */
/* callbacks.h - what C calls in Python by cffi: only what is rare. */
extern "Python" void mf_py_log(uint32_t level, const char *text, void *user);
