package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"dfs"
)

// Stat finds what an absolute path names, through symbolic links.
func (fs *FS) Stat(ctx context.Context, path string) (dfs.Attr, error) {
	w := walker{fs: fs}
	return w.walk(ctx, path, true)
}

// Lstat is Stat, but a symbolic link at the end is not followed.
func (fs *FS) Lstat(ctx context.Context, path string) (dfs.Attr, error) {
	w := walker{fs: fs}
	return w.walk(ctx, path, false)
}

// MkdirAll makes a folder and those above it that are missing.
func (fs *FS) MkdirAll(ctx context.Context, cred dfs.Cred, path string, mode uint32) (dfs.Attr, error) {
	attr, err := fs.Stat(ctx, path)
	if err == nil && !attr.IsDir() {
		return dfs.Attr{}, pathError("mkdir", path, dfs.ENOTDIR)
	}
	if err == nil || !errors.Is(err, dfs.ENOENT) {
		return attr, err
	}
	dir, name := splitPath(path)
	parent, err := fs.MkdirAll(ctx, cred, dir, mode)
	if err != nil {
		return dfs.Attr{}, err
	}
	attr, err = fs.Mkdir(ctx, cred, parent.Ino, name, mode)
	if errors.Is(err, dfs.EEXIST) { // somebody else was faster
		return fs.Stat(ctx, path)
	}
	return attr, pathError("mkdir", path, err)
}

// OpenPath opens the file that an absolute path names, through symbolic links; with
// O_CREAT it is made when it is missing.
func (fs *FS) OpenPath(ctx context.Context, cred dfs.Cred, path string, flags, mode uint32) (*File, error) {
	w := walker{fs: fs, cred: cred}
	attr, err := w.walk(ctx, path, true)
	switch {
	case err == nil && flags&(flagCreate|flagExcl) == flagCreate|flagExcl:
		return nil, pathError("open", path, dfs.EEXIST)
	case err == nil:
		f, err := fs.Open(ctx, cred, attr.Ino, flags)
		return f, pathError("open", path, err)
	case !errors.Is(err, dfs.ENOENT) || flags&flagCreate == 0 || w.missing == "":
		return nil, err
	}
	f, _, err := fs.Create(ctx, cred, w.parent, w.missing, mode, flags)
	return f, pathError("open", path, err)
}

// ReadFile reads a whole file.
func (fs *FS) ReadFile(ctx context.Context, cred dfs.Cred, path string) ([]byte, error) {
	f, err := fs.OpenPath(ctx, cred, path, flagRead, 0)
	if err != nil {
		return nil, err
	}
	defer f.Release()
	attr, err := f.Attr(ctx)
	if err != nil {
		return nil, pathError("read", path, err)
	}
	var data []byte
	for buf := make([]byte, min(max(attr.Size, 512), 1<<20)); ; {
		n, err := f.Read(ctx, buf, int64(len(data)))
		if err != nil {
			return nil, pathError("read", path, err)
		}
		if n == 0 {
			return data, nil
		}
		data = append(data, buf[:n]...)
	}
}

// WriteFile replaces the content of a file, or makes it, and makes the bytes durable.
func (fs *FS) WriteFile(ctx context.Context, cred dfs.Cred, path string, data []byte, mode uint32) error {
	f, err := fs.OpenPath(ctx, cred, path, flagWrite|flagCreate|flagTrunc, mode)
	if err != nil {
		return err
	}
	defer f.Release()
	for off := 0; off < len(data); {
		n, err := f.Write(ctx, data[off:min(len(data), off+1<<20)], int64(off))
		if err != nil {
			return pathError("write", path, err)
		}
		off += n
	}
	return pathError("write", path, f.Fsync(ctx, true))
}

// pathError says what was done to which path; nil stays nil.
func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", op, path, err)
}

// splitPath splits the last name off a path.
func splitPath(path string) (dir, name string) {
	path = strings.TrimRight(path, "/")
	i := strings.LastIndexByte(path, '/')
	return path[:i+1], path[i+1:]
}

// walker resolves paths by the rules of path_resolution(7). "..", as there is no
// folder that knows its parent but by listing, is resolved by the folders walked
// through.
type walker struct {
	fs      *FS
	cred    dfs.Cred
	links   int     // symbolic links followed
	parent  dfs.Ino // of the last name looked up
	missing string  // the last name of the path, when only it does not exist
}

func (w *walker) walk(ctx context.Context, path string, follow bool) (dfs.Attr, error) {
	if !strings.HasPrefix(path, "/") {
		return dfs.Attr{}, pathError("walk", path, dfs.EINVAL)
	}
	root, err := w.fs.GetAttr(ctx, dfs.RootIno)
	if err != nil {
		return dfs.Attr{}, pathError("stat", path, err)
	}
	trail := []dfs.Attr{root}
	names := strings.Split(path, "/")
	for i := 0; i < len(names); i++ {
		name, last := names[i], i == len(names)-1
		here := &trail[len(trail)-1]
		if name == "" || name == "." {
			if name == "." && !here.IsDir() || name == "" && i > 0 && !here.IsDir() {
				return dfs.Attr{}, pathError("stat", path, dfs.ENOTDIR)
			}
			continue
		}
		if !here.IsDir() {
			return dfs.Attr{}, pathError("stat", path, dfs.ENOTDIR)
		}
		if name == ".." {
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		attr, err := w.fs.Lookup(ctx, w.cred, here.Ino, name)
		if err != nil {
			if last && errors.Is(err, dfs.ENOENT) {
				w.parent, w.missing = here.Ino, name
			}
			return dfs.Attr{}, pathError("stat", path, err)
		}
		if attr.Type() != dfs.TypeLink || last && !follow {
			trail = append(trail, attr)
			continue
		}
		if w.links++; w.links > dfs.SymlinkMax {
			return dfs.Attr{}, pathError("stat", path, dfs.ELOOP)
		}
		target, err := w.fs.Readlink(ctx, attr.Ino)
		if err != nil {
			return dfs.Attr{}, pathError("stat", path, err)
		}
		if strings.HasPrefix(target, "/") {
			trail = trail[:1]
		}
		names = append(strings.Split(target, "/"), names[i+1:]...)
		i = -1
	}
	return trail[len(trail)-1], nil
}
