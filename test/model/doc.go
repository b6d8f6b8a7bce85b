// Package model is the file system as a few hundred obvious lines: the oracle
// that meta is compared with. It keeps everything in maps and pointers, counts
// what meta keeps counters of, and holds a file as one cell per byte. It was
// written from the manual pages, not from meta, and shares no code with it.
package model
