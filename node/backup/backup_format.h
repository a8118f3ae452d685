/* What writer and reader of a backup share. Every number is little-endian.
 *
 *   file  = "impbak1\n" | u32 bytes of the header | header | u32 CRC32C of all of it | block ... | end block
 *   block = u32 kind | u32 sequence | u32 bytes stored | u32 bytes of rows | u32 CRC32C of these 16 bytes and
 * what is stored | what is stored: zstd of rows; in the end block the SHA-256 of all the file before it row
 * = u16 table | u16 bytes of the key | u32 bytes of the row | key | row */
#ifndef NODE_BACKUP_FORMAT_H
#define NODE_BACKUP_FORMAT_H

#define BACKUP_MAGIC "impbak1\n"
enum { BACKUP_MAGIC_BYTES = 8, BACKUP_BLOCK_HEAD = 20, BACKUP_ROW_HEAD = 8, BACKUP_DATA = 1, BACKUP_END = 2 };

#endif
