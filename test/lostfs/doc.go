// Package lostfs mounts a disk that loses power. It is a FUSE file system over
// disk.Mem, so that real processes meet the same rules of what lasts as simulated
// ones: the bytes of a file up to its last fsync, a name up to the last fsync of its
// folder. Cut makes the disk forget, or tear, all the rest; Lie makes a disk whose
// fsync does nothing.
//
// It has what a server's data folder wants: files, folders, hard links, rename, pwrite,
// O_APPEND, O_DIRECT, mmap, fallocate, holes, flock. Symbolic links, modes and times it
// does not keep. The kernel does not tell a FUSE file system of syncfs and sync: they
// make nothing last here.
package lostfs
