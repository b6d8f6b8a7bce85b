package meta

import (
	"fmt"

	"dfs"
)

// Listing is a part of a folder.
type Listing struct {
	Entries []dfs.Entry // without "." and ".."
	End     bool        // there is nothing after these
	Parent  dfs.Ino     // for ".."; of the root, the root
}

// ReadDir lists a folder after cookie (0: from the beginning), at most limit
// entries, with attributes when plus.
//
// Entries come in order of the hash of their names, so a listing goes on at the
// right place however the folder changes: what is there throughout is shown
// exactly once. Cookies are at least 256 and fit in 63 bits.
func (v View) ReadDir(cred dfs.Cred, ino dfs.Ino, cookie uint64, limit int, plus bool) (Listing, error) {
	dir, err := v.stale(ino)
	if err != nil {
		return Listing{}, err
	}
	if !dir.IsDir() {
		return Listing{}, dfs.ENOTDIR
	}
	if err := v.may(dir, &cred, mayRead); err != nil {
		return Listing{}, err
	}
	l := Listing{End: true, Parent: dir.parent}
	if cookie >= 1<<63 {
		return l, nil
	}
	lo := key2(kindDentry, uint64(ino), cookie>>slotBits)
	err = v.r.Scan(lo, after(kindDentry, uint64(ino)), func(k, b []byte) (bool, error) {
		list, err := decodeDentries(b)
		if err != nil {
			return false, err
		}
		for i := range list {
			e := dfs.Entry{
				Name: list[i].name, Ino: list[i].ino, Type: list[i].mode,
				Cookie: number(k, 1)<<slotBits | uint64(list[i].slot),
			}
			switch {
			case e.Cookie <= cookie:
			case len(l.Entries) >= limit:
				l.End = false
				return false, nil
			default:
				l.Entries = append(l.Entries, e)
			}
		}
		return true, nil
	})
	if err != nil || !plus {
		return l, err
	}
	for i := range l.Entries {
		e := &l.Entries[i]
		in, err := v.inode(e.Ino)
		if err != nil {
			return Listing{}, err
		}
		if in == nil {
			return Listing{}, fmt.Errorf("meta: entry %q leads to inode %d, which has no row", e.Name, e.Ino)
		}
		e.Attr = in.Attr
	}
	return l, nil
}
