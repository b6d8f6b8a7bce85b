// Package fuse shows a client.FS to the Linux kernel as a mounted file system.
//
// It only translates: each kernel request becomes one call of client, each
// verdict one errno, and no decision about the file system is taken here. Each
// operation stands in the file that bears its name. A node id of the kernel is
// an inode number; only the mount's root, which is always node 1 to the kernel,
// may be another inode (Config.Root).
//
// What the kernel caches is covered by the client's leases: see kernelCache and listings.
// It checks permissions (default_permissions) with the attributes that it has, or has just
// asked for.
//
// Locks: fileSystem.mu guards the table of open handles, listings.mu what the kernel may
// have listed, lastKnown.mu what umount(8) is told when the cluster is silent. None is held
// while another is taken.
package fuse
