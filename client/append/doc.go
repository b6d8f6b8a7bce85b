// Package append brings the dirty bytes of a client's files to the chunk servers
// and then to the masters.
//
// A Piece is a run of bytes of one file. Pieces of many files are packed in one
// record, which is appended to the session's open chunk of their layout: encoded in
// fragments, sent to all servers of the chunk's acting set at once, over one stream
// for each server. When every one of them has it on disk, the pieces' extents go to
// the masters in one Commit, together with those of all other files that are ready.
// While a Commit is under way the next one gathers.
//
// Guarantees: pieces of one file are committed in the order in which they were
// submitted, none is skipped. A piece's bytes are on every acting server's disk before
// it is committed. (chunk, record) never names two different contents: a chunk in which
// an append failed is never appended to again, and its unfinished records are written
// anew in another one. So a failing server costs a delay, as long as the layout's
// MinWrite servers are up; and so does one that is up and much slower than the others:
// the next chunks are written without it.
//
// Lock order: Appender.mu, then link.mu. Neither is held over I/O, nor while the
// methods of Owner and Masters are called.
package append
