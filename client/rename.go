package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Rename is renameat2(2). What this client has written to the file is committed
// first: programs that replace a file by a new one must never be left, after a
// crash, with the new name and without the bytes.
func (fs *FS) Rename(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string, newParent dfs.Ino, newName string, flags uint32) error {
	if ok, err := fs.renameHere(ctx, cred, parent, name, newParent, newName, flags); ok || err != nil {
		return err
	}
	op := &metapb.Rename{Parent: uint64(parent), Name: []byte(name), NewParent: uint64(newParent), NewName: []byte(newName), Flags: flags}
	about := []dfs.Ino{parent, newParent, fs.leases.child(parent, name), fs.leases.child(newParent, newName)}
	reply, alone, err := fs.change(ctx, about, func(ctx context.Context, s *session) (*metapb.Mutation, error) {
		if flags&dfs.RenameWhiteout != 0 {
			ino, err := fs.takeIno(ctx, s)
			if err != nil {
				return nil, err
			}
			op.Whiteout = uint64(ino)
		}
		return &metapb.Mutation{Cred: rpc.CredToProto(cred), Op: &metapb.Mutation_Rename{Rename: op}}, nil
	})
	if err != nil || reply.Attr == nil {
		return err
	}
	attr := rpc.AttrFromProto(reply.Attr)
	if flags&dfs.RenameExchange == 0 {
		fs.leases.name(alone, newParent, newName, attr.Ino) // the old one stays when both lead to one inode
	}
	in := fs.find(attr.Ino)
	if in == nil {
		return nil
	}
	defer in.release()
	in.name1(newParent, newName)
	fs.seen(attr)
	return in.flush(ctx) // of a name that was not known here
}

// renameHere makes the change in memory, where that can be done.
func (fs *FS) renameHere(ctx context.Context, cred dfs.Cred, parent dfs.Ino, name string, newParent dfs.Ino, newName string, flags uint32) (ok bool, err error) {
	in := fs.named(parent, name)
	if in != nil {
		defer in.release()
		if !fs.leases.free(newParent, newName) {
			if err := in.flush(ctx); err != nil {
				return false, err
			}
		}
	}
	moved, victim, ok := fs.renameLocal(cred, parent, name, newParent, newName, flags)
	if !ok {
		if in != nil {
			err = in.flush(ctx)
		}
		return false, err
	}
	if victim != 0 {
		fs.discard(victim)
	}
	if in := fs.find(moved); in != nil {
		in.name1(newParent, newName)
		in.release()
	}
	return true, nil
}

// named finds, and holds, the inode with bytes that are not committed that was last
// seen under that name.
func (fs *FS) named(parent dfs.Ino, name string) *inode {
	if fs.memory.inUse() == 0 {
		return nil
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, in := range fs.inodes {
		in.mu.Lock()
		is := in.end > 0 && in.parent == parent && in.name == name
		in.mu.Unlock()
		if is {
			in.holds++
			return in
		}
	}
	return nil
}
