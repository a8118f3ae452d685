/* What one node means in another form: avatars, bookmarks, vCards. Between the files of protocols/xmpp only.
 */
#ifndef XMPP_CONVERT_H
#define XMPP_CONVERT_H

#include "protocols/xmpp/pep.h"

#define NS_VCARD_TEMP "vcard-temp"
#define NS_VCARD4 "urn:ietf:params:xml:ns:vcard-4.0"

/* ---- bookmarks.c: XEP-0048 and XEP-0402 ---- */
/* <storage xmlns='storage:bookmarks'/> of the bookmarks there are; false: there is nothing. */
bool bookmarks_old_write(struct shard *s, uint64_t uid, struct buf *out);
/* The bookmarks become those of STORAGE: adds to W what has changed. ERR_INVALID: it is none. */
int bookmarks_from_old(struct pep_write *w, struct shard *s, uint64_t uid, const struct xml *storage,
                       const char **text);
/* Tells the user's sessions that know the old form only. */
void bookmarks_changed(struct shard *s, uint64_t uid, const char *jid, uint64_t index);

/* ---- feature_avatar.c: XEP-0084, XEP-0153, XEP-0398 ---- */
/* The avatar that is shown. HASH "": none. DATA: base64, in the arena. */
struct avatar {
    char hash[41];
    const char *type, *data;
    size_t n_data;
};
void avatar_read(struct shard *s, uint64_t uid, struct avatar *out, struct arena *a);
/* Takes the photo out of a vCard that is being set, and makes an avatar of it. */
void avatar_from_vcard(struct pep_write *w, struct shard *s, uint64_t uid, struct xml *vcard);
/* <PHOTO/> as in vcard-temp. */
void avatar_write_photo(struct buf *out, const struct avatar *avatar);
/* The avatar of a user has changed: its sessions show the new hash. */
void avatar_changed(struct shard *s, uint64_t uid);

/* ---- vcard4.c: XEP-0292 §8 ---- */
void vcard4_from_temp(struct buf *out, const struct xml *vcard);
void vcard4_to_temp(struct buf *out, const struct xml *vcard4);

#endif
