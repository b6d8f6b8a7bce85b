// Package record reads the records of fragment files: for the chunk server that owns
// the files, and for a client on the same machine that was handed one of them.
//
// A record that was acknowledged never changes, so whoever has its file open may read
// it, and its checksums tell whether the bytes are right. See docs/formats.md.
package record
