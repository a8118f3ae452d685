#include "base/err.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *text;
} codes[] = {
#define X(name, text) {#name, text},
#include "base/err.def"
#undef X
};

enum { N_CODES = sizeof(codes) / sizeof(codes[0]) };

int err_set(struct err_ctx *ctx, int code, const char *format, ...)
{
    if (!ctx)
        return code;
    ctx->code = code;
    va_list args;
    va_start(args, format);
    vsnprintf(ctx->text, sizeof(ctx->text), format, args);
    va_end(args);
    return code;
}

int err_prefix(struct err_ctx *ctx, int code, const char *format, ...)
{
    if (!ctx)
        return code;
    if (ctx->text[0] == '\0')
        snprintf(ctx->text, sizeof(ctx->text), "%s", err_text(code));
    char old[sizeof(ctx->text)];
    memcpy(old, ctx->text, sizeof(old));
    va_list args;
    va_start(args, format);
    int n = vsnprintf(ctx->text, sizeof(ctx->text), format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof(ctx->text))
        snprintf(ctx->text + n, sizeof(ctx->text) - (size_t)n, ": %.*s", (int)sizeof(ctx->text) - n - 3, old);
    ctx->code = code;
    return code;
}

const char *err_name(int code)
{
    if (code == ERR_OK)
        return "OK";
    return code < 0 && code >= -N_CODES ? codes[-code - 1].name : "UNKNOWN";
}

const char *err_text(int code)
{
    if (code == ERR_OK)
        return "no error";
    return code < 0 && code >= -N_CODES ? codes[-code - 1].text : "unknown error";
}
