package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// listMax is how many entries one request asks for at most.
const listMax = 1024

// Listing is a part of a folder.
type Listing struct {
	Entries []dfs.Entry // without "." and ".."
	End     bool        // there is nothing after these
	Parent  dfs.Ino     // for ".."; of the root, the root

	// Lease names the lease on the folder under which it may be kept, never the same for two of
	// them; 0: none, it may be old already.
	Lease uint64
}

// ReadDir lists up to limit entries after the one with that cookie; 0 begins. With
// plus, each entry has its Attr. A Listing may be shorter than limit before the end.
func (fs *FS) ReadDir(ctx context.Context, cred dfs.Cred, ino dfs.Ino, cookie uint64, limit int, plus bool) (Listing, error) {
	req := &metapb.ReadDirRequest{
		Ino: uint64(ino), Cookie: cookie, Limit: uint32(max(1, min(limit, listMax))), Plus: plus, Cred: rpc.CredToProto(cred),
		Session: fs.leases.session(),
	}
	at := fs.leases.now() // first: what is changed from here on is not settled
	if err := fs.lane.settle(ctx); err != nil {
		return Listing{}, err
	}
	var reply *metapb.ReadDirReply
	err := fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.ReadDir(ctx, req)
		return err
	})
	if err == nil {
		err = rpc.Errno(reply.Errno)
	}
	if err != nil {
		return Listing{}, err
	}
	fs.leases.take(at, reply.Leases)
	if !fs.cfg.NoDirAtime {
		fs.accessedIno(ino)
	}
	l := Listing{Entries: make([]dfs.Entry, len(reply.Entries)), End: reply.End, Parent: dfs.Ino(reply.Parent)}
	for i, e := range reply.Entries {
		l.Entries[i] = dfs.Entry{Name: string(e.Name), Ino: dfs.Ino(e.Ino), Type: e.Type, Cookie: e.Cookie}
		fs.leases.name(at, ino, string(e.Name), dfs.Ino(e.Ino))
		if e.Attr != nil {
			attr := rpc.AttrFromProto(e.Attr)
			fs.leases.attrs(at, &attr)
			shown, err := fs.show(ctx, attr)
			if err != nil && !isErrno(err) {
				return Listing{}, err
			} else if err == nil {
				attr = shown
			}
			l.Entries[i].Attr = attr
		}
	}
	l.Lease = fs.leases.keeps(ino, at)
	return l, nil
}

// CountsEachListing reports whether each listing of a folder is to be told as an access to it.
func (fs *FS) CountsEachListing() bool { return fs.cfg.Atime == StrictAtime }
