package client

import (
	"context"
	"errors"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Create makes a regular file and opens it, or without O_EXCL opens the one that is
// there. flags are those of open(2); O_TRUNC works. The umask is cred's.
func (fs *FS) Create(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string, mode, flags uint32) (*File, dfs.Attr, error) {
	c := &metapb.Create{
		Parent: uint64(parent), Name: []byte(name), Mode: dfs.TypeFile | mode&0o7777,
		Excl: flags&flagExcl != 0, Open: true, Umask: cred.Umask,
	}
	if attr, ok := fs.makeLocal(cred, c); ok {
		return fs.created(cred, attr, parent, name, flags, false), attr, nil
	}
	attr, existed, err := fs.create(ctx, cred, c)
	if err != nil {
		return nil, dfs.Attr{}, err
	}
	if err := openable(&attr); err != nil {
		fs.unopened(attr.Ino)
		return nil, dfs.Attr{}, err
	}
	if existed {
		// Only now is it known which file it is: may it be opened, and is there
		// something of it in memory?
		f, err := fs.Open(ctx, cred, attr.Ino, flags)
		if err != nil {
			return nil, dfs.Attr{}, err
		}
		f.in.name1(parent, name)
		f.in.mu.Lock()
		attr = f.in.overlay()
		f.in.mu.Unlock()
		return f, attr, nil
	}
	return fs.created(cred, attr, parent, name, flags, true), attr, nil
}

// created opens a file that was just made; registered says that the masters have it as
// open by this session.
func (fs *FS) created(cred dfs.Cred, attr dfs.Attr, parent dfs.Ino, name string, flags uint32, registered bool) *File {
	in := fs.hold(attr.Ino)
	if name != "" {
		in.name1(parent, name)
	}
	in.mu.Lock()
	in.validate(&attr)
	if in.attr.Change == attr.Change {
		in.extents.load(0, forever, nil)
	}
	in.mu.Unlock()
	fs.leases.setOwn(&attr)
	return newFile(in, cred, flags, registered)
}

// name1 notes a name of the inode.
func (in *inode) name1(parent dfs.Ino, name string) {
	in.mu.Lock()
	in.parent, in.name = parent, name
	in.mu.Unlock()
}

// make makes an inode that is not opened.
func (fs *FS) make(ctx context.Context, cred dfs.Cred, c *metapb.Create) (dfs.Attr, error) {
	if attr, ok := fs.makeLocal(cred, c); ok {
		return attr, nil
	}
	attr, _, err := fs.create(ctx, cred, c)
	return attr, err
}

// create makes an inode of any type under a number of the session.
func (fs *FS) create(ctx context.Context, cred dfs.Cred, c *metapb.Create) (attr dfs.Attr, existed bool, err error) {
	var tried uint64 // the number under which it may have been made before the session expired
	parent := dfs.Ino(c.Parent)
	reply, alone, err := fs.change(ctx, []dfs.Ino{parent}, func(ctx context.Context, s *session) (*metapb.Mutation, error) {
		ino, err := fs.takeIno(ctx, s)
		if err != nil {
			return nil, err
		}
		c.Ino = uint64(ino)
		tried = c.Ino
		return &metapb.Mutation{Cred: rpc.CredToProto(cred), Op: &metapb.Mutation_Create{Create: c}}, nil
	})
	if errors.Is(err, errUnknown) && !c.Tmpfile {
		if a, lerr := fs.Lookup(ctx, cred, dfs.Ino(c.Parent), string(c.Name)); lerr == nil && uint64(a.Ino) == tried {
			return a, c.Open, nil // it was made
		}
	}
	if err != nil {
		return dfs.Attr{}, false, err
	}
	attr = rpc.AttrFromProto(reply.Attr)
	if !c.Tmpfile {
		fs.leases.name(alone, parent, string(c.Name), attr.Ino)
	}
	return attr, reply.Existed, nil
}
