package meta

import (
	"dfs"
)

// Check is Check of the table that v reads.
func (v View) Check() []Problem { return check(v) }

// Owners finds the files that have bytes in chunks. It looks at all extents.
func (v View) Owners(chunks map[dfs.ChunkID]bool) (map[dfs.ChunkID][]dfs.Ino, error) {
	type use struct {
		body  dfs.Ino
		chunk dfs.ChunkID
	}
	uses := map[use]bool{}
	bodies := map[dfs.Ino]dfs.Ino{} // whose each body is
	err := v.r.Scan(key0(kindExtent), key0(kindExtent+1), func(k, b []byte) (bool, error) {
		e, err := decodeExtent(number(k, 1), b)
		if err == nil && chunks[e.Chunk] {
			body := dfs.Ino(number(k, 0))
			uses[use{body, e.Chunk}] = true
			bodies[body] = body
		}
		return true, err
	})
	if err != nil || len(uses) == 0 {
		return nil, err
	}
	// Most files keep their extents under their own number. A number that is no file's, or
	// of one that keeps its own elsewhere, is looked for among all.
	foreign := false
	for body := range bodies {
		in, err := v.inode(body)
		if err != nil {
			return nil, err
		}
		foreign = foreign || in == nil || in.body != 0
	}
	if foreign {
		err = v.r.Scan(key0(kindInode), key0(kindInode+1), func(k, b []byte) (bool, error) {
			in, err := decodeInode(dfs.Ino(number(k, 0)), b)
			if err == nil && in.body != 0 {
				if _, ok := bodies[in.body]; ok {
					bodies[in.body] = in.Ino
				}
			}
			return true, err
		})
	}
	out := map[dfs.ChunkID][]dfs.Ino{}
	for u := range uses {
		out[u.chunk] = append(out[u.chunk], bodies[u.body])
	}
	return out, err
}

// Paths finds a path from the root to each of some inodes; those that have no name are left
// out. It looks at all entries.
func (v View) Paths(inodes map[dfs.Ino]bool) (map[dfs.Ino]string, error) {
	type place struct {
		dir  dfs.Ino
		name string
	}
	found := map[dfs.Ino]place{}
	err := v.r.Scan(key0(kindDentry), key0(kindDentry+1), func(k, b []byte) (bool, error) {
		list, err := decodeDentries(b)
		for _, e := range list {
			if inodes[e.ino] {
				found[e.ino] = place{dfs.Ino(number(k, 0)), e.name}
			}
		}
		return true, err
	})
	out := map[dfs.Ino]string{}
	dirs := map[dfs.Ino]string{dfs.RootIno: "/"}
	for ino, p := range found {
		dir, derr := v.dirPath(p.dir, dirs)
		if derr != nil {
			return nil, derr
		}
		if dir != "" {
			out[ino] = dir + p.name
		}
	}
	if inodes[dfs.RootIno] {
		out[dfs.RootIno] = "/"
	}
	return out, err
}

// dirPath is the path of a folder, with a final slash; empty when it has none. known is those that
// were found before.
func (v View) dirPath(dir dfs.Ino, known map[dfs.Ino]string) (string, error) {
	var chain []dfs.Ino
	var names []string
	at := dir
	for known[at] == "" {
		in, err := v.inode(at)
		if err != nil {
			return "", err
		}
		if in == nil || in.parent == 0 || len(chain) > dfs.PathMax {
			return "", nil
		}
		name, err := v.nameIn(in.parent, at)
		if err != nil || name == "" {
			return "", err
		}
		chain, names = append(chain, at), append(names, name)
		at = in.parent
	}
	path := known[at]
	for i := len(chain) - 1; i >= 0; i-- {
		path += names[i] + "/"
		known[chain[i]] = path
	}
	return path, nil
}

// nameIn is the name that an inode has in a folder; empty when it has none there.
func (v View) nameIn(dir, ino dfs.Ino) (name string, err error) {
	err = v.r.Scan(key1(kindDentry, uint64(dir)), after(kindDentry, uint64(dir)), func(_, b []byte) (bool, error) {
		list, err := decodeDentries(b)
		for _, e := range list {
			if e.ino == ino {
				name = e.name
			}
		}
		return name == "", err
	})
	return name, err
}

// Tree calls fn for the inodes of a folder tree, or for a file, until it fails. An inode with
// several names comes several times.
func (v View) Tree(top dfs.Ino, fn func(ino dfs.Ino, dir bool) error) error {
	in, err := v.stale(top)
	if err != nil {
		return err
	}
	for todo, dirs := []dfs.Ino{top}, in.IsDir(); len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if err := fn(at, dirs); err != nil || !dirs {
			return err
		}
		err := v.r.Scan(key1(kindDentry, uint64(at)), after(kindDentry, uint64(at)), func(_, b []byte) (bool, error) {
			list, err := decodeDentries(b)
			for _, e := range list {
				if e.mode == dfs.TypeDir {
					todo = append(todo, e.ino)
				} else if err := fn(e.ino, false); err != nil {
					return false, err
				}
			}
			return true, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// EachExtentOf calls fn for the extents of one inode, until it fails.
func (v View) EachExtentOf(ino dfs.Ino, fn func(dfs.Extent) error) error {
	in, err := v.inode(ino)
	if err != nil || in == nil || in.Alloc == 0 {
		return err
	}
	return v.r.Scan(key1(kindExtent, in.bodyOf()), after(kindExtent, in.bodyOf()), func(k, b []byte) (bool, error) {
		e, err := decodeExtent(number(k, 1), b)
		if err != nil {
			return false, err
		}
		return true, fn(e)
	})
}

// Strange says of which chunks that a server holds nobody was ever given the number of: no
// session of this cluster can have written them.
func (v View) Strange(chunks []dfs.ChunkID) (list []dfs.ChunkID, err error) {
	c, err := v.counters()
	if err != nil {
		return nil, err
	}
	for _, id := range chunks {
		if id.Seq() >= c.nextChunk || !id.Layout().Valid() {
			list = append(list, id)
		}
	}
	return list, nil
}
