/* A self-signed certificate made at start. */
#ifndef UCMSIM_CERT_H
#define UCMSIM_CERT_H

#include "base/err.h"

/* P-256, valid for a year, for HOST (name or address; "" none), this machine's name, localhost, 127.0.0.1 and
 * ::1. PEM strings for mem_free. */
int cert_make(char **out_cert, char **out_key, const char *host, struct err_ctx *err);

#endif
