package dfs

// What a change does to attributes. The masters carry it out, and a client that changes
// names and attributes in memory under leases answers by the same rules.

// Changed marks the inode as changed at a time.
func (a *Attr) Changed(at Time) {
	a.Ctime = at
	a.Change++
}

// atimeStale is after how long relatime tells of a read once more.
const atimeStale = 24 * 60 * 60 // seconds

// AtimeDue reports whether a read at a time is to be told under relatime: the last one is
// not later than the last change, or a day old.
func (a *Attr) AtimeDue(at Time) bool {
	return a.Atime.Compare(a.Mtime) <= 0 || a.Atime.Compare(a.Ctime) <= 0 || at.Sec-a.Atime.Sec >= atimeStale
}

// Accessed takes over that the inode was read at a time, told at now. It does not count
// when the inode has changed since: atime may have been set, and otherwise the next read
// tells anew. It is no change: neither Ctime nor Change move.
func (a *Attr) Accessed(at, now Time) bool {
	future := a.Atime.Compare(now) > 0 // it was set, and is no reader's
	if at.Compare(a.Ctime) < 0 || at.Compare(a.Atime) <= 0 && !future {
		return false
	}
	a.Atime = at
	return true
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
