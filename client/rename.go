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
	if in := fs.named(parent, name); in != nil {
		err := in.flush(ctx)
		in.release()
		if err != nil {
			return err
		}
	}
	reply, err := fs.apply(ctx, false, &metapb.Mutation{Cred: rpc.CredToProto(cred), Op: &metapb.Mutation_Rename{Rename: &metapb.Rename{
		Parent: uint64(parent), Name: []byte(name), NewParent: uint64(newParent), NewName: []byte(newName), Flags: flags,
	}}})
	if err != nil || reply.Attr == nil {
		return err
	}
	attr := rpc.AttrFromProto(reply.Attr)
	in := fs.find(attr.Ino)
	if in == nil {
		return nil
	}
	defer in.release()
	in.name1(newParent, newName)
	fs.seen(attr)
	return in.flush(ctx) // of a name that was not known here
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
