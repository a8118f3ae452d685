/* Credentials as rows of table credential. */
#ifndef IM_CREDENTIAL_ROW_H
#define IM_CREDENTIAL_ROW_H

#include "im/credential.h"
#include "rows.pb-c.h"

/* A row that points into the credential it was filled from. */
struct credential_row {
    Imp__CredentialRow row;
    Imp__ScramKeys keys[N_CREDENTIAL_HASHES];
};
/* LEVEL: the cluster's; below 3 there is no SHA-512. */
void credential_row_fill(struct credential_row *out, const struct credential *c, unsigned level);
/* Keys that cannot be ones are left out. False: there are none. */
bool credential_row_read(struct credential *out, const Imp__CredentialRow *row);

#endif
