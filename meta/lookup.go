package meta

import (
	"strings"

	"dfs"
)

// Lookup finds a name in a folder that cred may search; also "." and "..".
func (v View) Lookup(cred dfs.Cred, parent dfs.Ino, name string) (dfs.Attr, error) {
	in, err := v.lookup(&cred, parent, name)
	if err != nil {
		return dfs.Attr{}, err
	}
	return in.Attr, nil
}

func (v View) lookup(cred *dfs.Cred, parent dfs.Ino, name string) (*inode, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	dir, err := v.inode(parent)
	if err != nil {
		return nil, err
	}
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	if err := v.may(dir, cred, mayExec); err != nil {
		return nil, err
	}
	switch {
	case name == ".":
		return dir, nil
	case name == "..":
		return v.stale(dir.parent)
	case dir.Nlink == 0:
		return nil, dfs.ENOENT
	case len(name) > dfs.NameMax:
		return nil, dfs.ENAMETOOLONG
	}
	b, err := v.bucket(parent, name)
	if err != nil {
		return nil, err
	}
	i := b.find(name)
	if i < 0 {
		return nil, dfs.ENOENT
	}
	return v.stale(b.list[i].ino)
}

// Resolve walks a path from the root as open(2) does and follows symlinks, also
// the last one. Relative paths begin at the root too.
func (v View) Resolve(cred dfs.Cred, path string) (dfs.Attr, error) {
	if len(path) >= dfs.PathMax {
		return dfs.Attr{}, dfs.ENAMETOOLONG
	}
	at, err := v.stale(dfs.RootIno)
	if err != nil {
		return dfs.Attr{}, err
	}
	links := 0
	for path != "" {
		name, rest, more := strings.Cut(path, "/")
		path = rest
		if name == "" {
			if !at.IsDir() {
				return dfs.Attr{}, dfs.ENOTDIR // "file/"
			}
			continue
		}
		dir := at
		if at, err = v.lookup(&cred, dir.Ino, name); err != nil {
			return dfs.Attr{}, err
		}
		if at.Type() == dfs.TypeLink {
			if links++; links > dfs.SymlinkMax {
				return dfs.Attr{}, dfs.ELOOP
			}
			target := at.target
			if at = dir; strings.HasPrefix(target, "/") {
				if at, err = v.stale(dfs.RootIno); err != nil {
					return dfs.Attr{}, err
				}
			}
			if path = target; more {
				path += "/" + rest
			}
		} else if more && !at.IsDir() {
			return dfs.Attr{}, dfs.ENOTDIR
		}
	}
	return at.Attr, nil
}
