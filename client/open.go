package client

import (
	"context"
	"errors"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Open opens a regular file. flags are those of open(2): the access mode, O_TRUNC,
// O_APPEND, O_SYNC, O_DSYNC and O_DIRECT count.
func (fs *FS) Open(ctx context.Context, cred dfs.Cred, ino dfs.Ino, flags uint32) (*File, error) {
	in := fs.hold(ino)
	if attr, ok := fs.leases.attr(ino); ok && cred.Checked && attr.Nlink > 0 {
		// Under a lease nobody needs to know: who takes the last name away asks for the
		// lease first, and is told then.
		err := openable(&attr)
		if err == nil {
			in.mu.Lock()
			in.adopt(&attr)
			in.mu.Unlock()
			if f, ok := in.openHere(cred, flags); ok {
				return in.truncated(ctx, cred, flags, f)
			}
		} else {
			in.release()
			return nil, err
		}
	}
	if err := in.open(ctx, cred, flags); err != nil {
		fs.unopened(ino)
		in.release()
		return nil, err
	}
	return in.truncated(ctx, cred, flags, newFile(in, cred, flags, true))
}

// openHere opens without telling, when the lease is still there once the file counts as
// open.
func (in *inode) openHere(cred dfs.Cred, flags uint32) (*File, bool) {
	f := newFile(in, cred, flags, false)
	if in.fs.leases.holds(in.ino) {
		return f, true
	}
	in.fs.mu.Lock()
	defer in.fs.mu.Unlock()
	if in.registered {
		return f, true // it was given back just now, and told that the file is open
	}
	in.opens--
	return nil, false
}

// truncated empties a file that was opened so.
func (in *inode) truncated(ctx context.Context, cred dfs.Cred, flags uint32, f *File) (*File, error) {
	if flags&flagTrunc != 0 && flags&flagAccess != flagRead {
		in.mu.Lock()
		empty := in.size() == 0
		in.mu.Unlock()
		if !empty {
			zero := uint64(0)
			attr, err := in.fs.SetAttr(ctx, cred, in.ino, SetAttr{Size: &zero, Handle: true})
			if err != nil {
				f.Release()
				return nil, err
			}
			in.fs.leases.setOwn(&attr)
		}
	}
	return f, nil
}

// open registers the inode as open, and takes over its attributes and the first of
// its extents.
func (in *inode) open(ctx context.Context, cred dfs.Cred, flags uint32) error {
	fs := in.fs
	ctx, cancel := fs.bound(ctx)
	defer cancel()
	for {
		if err := fs.opening(ctx, in.ino); err != nil {
			return err
		}
		if err := fs.settleFor(ctx, in.ino); err != nil {
			return err
		}
		at := fs.leases.now()
		s := fs.session.Load()
		req := &metapb.OpenRequest{Session: uint64(s.id), Ino: uint64(in.ino), Flags: flags, Cred: rpc.CredToProto(cred), Extents: extentsOpen}
		var reply *metapb.OpenReply
		err := fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
			reply, err = m.Open(ctx, req)
			return err
		})
		if err != nil {
			return err
		}
		if fs.session.Load() != s {
			continue // it was registered for the session before
		}
		if err := rpc.Errno(reply.Errno); err != nil {
			return err
		}
		attr := rpc.AttrFromProto(reply.Attr)
		fs.leases.take(at, reply.Leases)
		fs.leases.attrs(at, &attr)
		if err := openable(&attr); err != nil {
			return err
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		if fs.leases.overtaken(in.ino, at) {
			in.validate(&attr)
			return nil
		}
		in.loadLocked(attr, 0, reply.Extents, reply.More)
		return nil
	}
}

// unopened tells the masters that an inode which they may have registered as open is
// not, unless another File has it open.
func (fs *FS) unopened(ino dfs.Ino) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if in := fs.inodes[ino]; in == nil || in.opens == 0 {
		fs.released[ino] = true
	}
}

// openable refuses what has no bytes of its own, as open(2) does.
func openable(attr *dfs.Attr) error {
	switch attr.Type() {
	case dfs.TypeFile:
		if !attr.Layout.Valid() {
			return errors.Join(errors.New("the file's policy is not known to this version"), dfs.EOPNOTSUPP)
		}
		return nil
	case dfs.TypeDir:
		return dfs.EISDIR
	case dfs.TypeLink:
		return dfs.ELOOP
	}
	return dfs.ENXIO
}
