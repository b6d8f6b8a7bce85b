package client

import (
	"context"
	"errors"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Lookup finds a name in a folder.
func (fs *FS) Lookup(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string) (dfs.Attr, error) {
	if cred.Checked {
		attr, err, known := fs.leases.lookup(parent, name)
		if !known && fs.listAhead(ctx, cred, parent) {
			attr, err, known = fs.leases.lookup(parent, name)
		}
		if known {
			if err != nil {
				return dfs.Attr{}, err
			}
			return fs.ours(attr), nil
		}
	}
	if !nameable(name) || fs.leases.untoldName(parent, name) {
		if err := fs.lane.settle(ctx); err != nil {
			return dfs.Attr{}, err
		}
	}
	for {
		at, reply, err := fs.askLookup(ctx, cred, parent, name)
		if err != nil {
			return dfs.Attr{}, err
		}
		if ino := dfs.Ino(reply.Attr.GetIno()); fs.leases.untold(ino) {
			// It is not yet there what it is here.
			if err := fs.lane.settle(ctx); err != nil {
				return dfs.Attr{}, err
			}
			continue
		}
		attr, err := fs.lookedUp(at, parent, name, reply)
		if err != nil {
			return dfs.Attr{}, err
		}
		return fs.show(ctx, attr)
	}
}

// askLookup has the masters look a name up; at is the clock from before.
func (fs *FS) askLookup(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string) (at uint64, reply *metapb.LookupReply, err error) {
	at = fs.leases.now()
	err = fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.Lookup(ctx, &metapb.LookupRequest{Parent: uint64(parent), Name: []byte(name), Cred: rpc.CredToProto(cred), Session: fs.leases.session()})
		return err
	})
	return at, reply, err
}

// lookedUp takes over what the masters have answered.
func (fs *FS) lookedUp(at uint64, parent dfs.Ino, name string, reply *metapb.LookupReply) (dfs.Attr, error) {
	fs.leases.take(at, reply.Leases)
	fs.leases.asked(parent)
	if err := rpc.Errno(reply.Errno); err != nil {
		if errors.Is(err, dfs.ENOENT) && nameable(name) {
			fs.leases.absent(at, parent, name)
		}
		return dfs.Attr{}, err
	}
	attr := rpc.AttrFromProto(reply.Attr)
	fs.leases.attrs(at, &attr)
	if nameable(name) {
		fs.leases.name(at, parent, name, attr.Ino)
	}
	return attr, nil
}
