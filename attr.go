package dfs

// What a change does to attributes. The masters carry it out, and a client that changes
// names and attributes in memory under leases answers by the same rules.

// Changed marks the inode as changed at a time.
func (a *Attr) Changed(at Time) {
	a.Ctime = at
	a.Change++
}

// EntriesChanged marks a folder whose entries became more or fewer by entries, and whose
// subfolders by dirs.
func (a *Attr) EntriesChanged(at Time, entries, dirs int) {
	a.Size += uint64(entries)
	a.Nlink += uint32(dirs)
	a.Mtime = at
	a.Changed(at)
}

// DropLink takes one name from the inode; a folder has only one.
func (a *Attr) DropLink(at Time) {
	if a.IsDir() {
		a.Nlink = 0
	} else {
		a.Nlink--
	}
	a.Changed(at)
}

// KillSuid clears setuid, and setgid of a group that may execute: without that bit it
// once meant mandatory locking and gives nobody any rights.
func (a *Attr) KillSuid() {
	const setuid, setgid, groupExec = 0o4000, 0o2000, 0o0010
	if a.IsDir() {
		return
	}
	a.Mode &^= setuid
	if a.Mode&groupExec != 0 {
		a.Mode &^= setgid
	}
}
