// Package fuse shows a client.FS to the Linux kernel as a mounted file system.
//
// It only translates: each kernel request becomes one call of client, each
// verdict one errno, and no decision about the file system is taken here. Each
// operation stands in the file that bears its name. A node id of the kernel is
// an inode number; only the mount's root, which is always node 1 to the kernel,
// may be another inode (Config.Root).
//
// Nothing that another mount could change is cached by the kernel: entries and
// attributes are answered with a timeout of zero, and the kernel compares size
// and modification time with its pages on each read (FUSE_AUTO_INVAL_DATA).
// The kernel checks permissions (default_permissions) with attributes that it
// has just asked for.
//
// Locks: fileSystem.mu guards the table of open handles, dirHandle.mu the entries
// read ahead of one open folder, lastKnown.mu what umount(8) is told when the
// cluster is silent. None is held while another is taken; dirHandle.mu is held
// during a ReadDir call, since the kernel sends the
// requests of one handle one at a time and a second one has to wait anyway.
package fuse
