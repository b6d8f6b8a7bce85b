// Package chunk is the chunk store of one server: fragment files in one or more
// data folders, each an append-only row of records with a checksum for every page.
// An Append that returned nil is on disk, with the file's name, and stays readable
// byte for byte; a Read answers bytes that match their checksums or an error. What
// a crash tore is cut off when the store is opened. One fragment file that is
// damaged does not hinder the others.
//
// A chunk has one writer, which appends record after record; appends that arrive
// while the file is being synced share the next sync. After a failed sync the
// chunk is failed for as long as the store is open: the kernel forgets which pages
// were dirty, so that no later sync could prove anything.
//
// Lock order: fragment.writeMu, then fragment.mu, then files.mu; Store.mu is taken
// alone or before files.mu. writeMu is held during writes to the file, for they
// must come in order; no other lock is held during I/O.
package chunk
