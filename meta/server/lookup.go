package server

import (
	"context"

	"dfs"
	"dfs/meta"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Bounds of answers.
const (
	extentsMax    = 4096
	entriesMax    = 1024
	entriesFirst  = 256 // of a listing with attributes: they are larger
	openExtentMax = 1024
	nearMax       = 512 // inode numbers looked at
)

// serving is the leadership under which a client's read is answered: leases of the term
// before are no concern any more.
func (s *Server) serving(ctx context.Context) (*leadership, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	return l, l.leases.ready(ctx)
}

// leaseToRead waits until no other session has changes of the inode to tell, and grants
// the session a lease where it can.
func (s *Server) leaseToRead(ctx context.Context, session uint64, ino dfs.Ino) (*leadership, []*metapb.Lease, error) {
	l, err := s.serving(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := l.told(ctx, dfs.SessionID(session), ino); err != nil {
		return nil, nil, err
	}
	leases, err := l.leases.read(ctx, dfs.SessionID(session), ino)
	return l, leases, err
}

// readUnder reads one inode under such a lease.
func (s *Server) readUnder(ctx context.Context, session uint64, ino dfs.Ino, fn func(meta.View) error) ([]*metapb.Lease, error) {
	_, leases, err := s.leaseToRead(ctx, session, ino)
	if err != nil {
		return nil, err
	}
	return leases, s.read(ctx, fn)
}

// Lookup finds a name.
func (s *Server) Lookup(ctx context.Context, req *metapb.LookupRequest) (*metapb.LookupReply, error) {
	session, parent := dfs.SessionID(req.Session), dfs.Ino(req.Parent)
	l, leases, err := s.leaseToRead(ctx, req.Session, parent)
	if err != nil {
		return nil, err
	}
	// The inode is known after the first look only, and it can be another one at the
	// second.
	for under := dfs.Ino(0); ; {
		var attr dfs.Attr
		err := s.read(ctx, func(v meta.View) (err error) {
			attr, err = v.Lookup(s.credOf(req.Session, req.Cred), parent, name(req.Name))
			return err
		})
		if err != nil {
			errno, err := verdict(err)
			return &metapb.LookupReply{Errno: errno, Leases: leases}, err
		}
		if attr.Ino == under || attr.Ino == parent {
			return &metapb.LookupReply{Attr: rpc.AttrToProto(&attr), Leases: leases}, nil
		}
		under = attr.Ino
		more, err := l.leases.read(ctx, session, under)
		if err != nil {
			return nil, err
		}
		leases = append(leases, more...)
	}
}

// GetAttr tells an inode's attributes.
func (s *Server) GetAttr(ctx context.Context, req *metapb.GetAttrRequest) (*metapb.GetAttrReply, error) {
	_, leases, err := s.leaseToRead(ctx, req.Session, dfs.Ino(req.Ino))
	if err != nil {
		return nil, err
	}
	return s.tellAttr(ctx, dfs.Ino(req.Ino), leases)
}

// tellAttr answers the attributes that leases were granted for.
func (s *Server) tellAttr(ctx context.Context, ino dfs.Ino, leases []*metapb.Lease) (*metapb.GetAttrReply, error) {
	var attr dfs.Attr
	err := s.read(ctx, func(v meta.View) (err error) {
		attr, err = v.GetAttr(ino)
		return err
	})
	if err == nil {
		return &metapb.GetAttrReply{Attr: rpc.AttrToProto(&attr), Leases: leases}, nil
	}
	errno, err := verdict(err)
	return &metapb.GetAttrReply{Errno: errno}, err
}

// Acquire makes the session the only one with a lease on an inode.
func (s *Server) Acquire(ctx context.Context, req *metapb.AcquireRequest) (*metapb.GetAttrReply, error) {
	l, err := s.serving(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.told(ctx, dfs.SessionID(req.Session), dfs.Ino(req.Ino)); err != nil {
		return nil, err
	}
	leases, err := l.leases.acquire(ctx, dfs.SessionID(req.Session), dfs.Ino(req.Ino))
	if err != nil {
		return nil, err
	}
	return s.tellAttr(ctx, dfs.Ino(req.Ino), leases)
}

// Open registers that a session has an inode open, then reads it.
func (s *Server) Open(ctx context.Context, req *metapb.OpenRequest) (*metapb.OpenReply, error) {
	session, ino := dfs.SessionID(req.Session), dfs.Ino(req.Ino)
	l, err := s.serving(ctx)
	if err != nil {
		return nil, err
	}
	// First, so that nobody frees it between.
	held, ok := l.opened(session, ino)
	if !ok {
		return &metapb.OpenReply{Errno: uint32(dfs.ESTALE)}, nil
	}
	out := &metapb.OpenReply{}
	leases, err := s.readUnder(ctx, req.Session, ino, func(v meta.View) error {
		attr, err := v.GetAttr(ino)
		if err != nil {
			return err
		}
		if err := v.Access(s.credOf(req.Session, req.Cred), ino, accessMask(req.Flags)); err != nil {
			return err
		}
		extents, more, err := v.Extents(ino, 0, int(min(req.Extents, openExtentMax)))
		if err != nil {
			return err
		}
		out = &metapb.OpenReply{Attr: rpc.AttrToProto(&attr), Extents: rpc.ExtentsToProto(extents), More: more}
		return nil
	})
	if err == nil {
		if s.leading.Load() != l {
			return nil, s.notReady() // the next leader has not been told
		}
		out.Leases = leases
		return out, nil
	}
	if !held {
		l.released(session, ino)
	}
	errno, err := verdict(err)
	return &metapb.OpenReply{Errno: errno}, err
}

// accessMask is what open(2)'s access mode asks for, as in access(2).
func accessMask(flags uint32) uint32 {
	switch flags & 3 {
	case 0:
		return 4
	case 1:
		return 2
	}
	return 6
}

// Extents lists a file's extents.
func (s *Server) Extents(ctx context.Context, req *metapb.ExtentsRequest) (*metapb.ExtentsReply, error) {
	out := &metapb.ExtentsReply{}
	leases, err := s.readUnder(ctx, req.Session, dfs.Ino(req.Ino), func(v meta.View) error {
		attr, err := v.GetAttr(dfs.Ino(req.Ino))
		if err != nil {
			return err
		}
		extents, more, err := v.Extents(dfs.Ino(req.Ino), req.Off, int(min(req.Limit, extentsMax)))
		if err != nil {
			return err
		}
		out = &metapb.ExtentsReply{Attr: rpc.AttrToProto(&attr), Extents: rpc.ExtentsToProto(extents), More: more}
		return nil
	})
	if err == nil {
		out.Leases = leases
		return out, nil
	}
	errno, err := verdict(err)
	return &metapb.ExtentsReply{Errno: errno}, err
}

// Near tells small files with numbers near each other: those that were made one after the
// other are often read one after the other.
func (s *Server) Near(ctx context.Context, req *metapb.NearRequest) (*metapb.NearReply, error) {
	l, err := s.serving(ctx)
	if err != nil {
		return nil, err
	}
	session, from := dfs.SessionID(req.Session), dfs.Ino(req.From)
	to := dfs.Ino(min(req.To, req.From+nearMax))
	out := &metapb.NearReply{}
	if from >= to {
		return out, nil
	}
	// Leases come before what is told under them.
	list, err := s.smallFiles(ctx, from, to, false)
	if err != nil {
		return nil, err
	}
	inos := make([]dfs.Ino, len(list))
	for i := range list {
		inos[i] = list[i].Attr.Ino
	}
	out.Leases = l.leases.hint(session, l.leases.shared(session, inos), inos...)
	if len(out.Leases) == 0 {
		return out, nil
	}
	if list, err = s.smallFiles(ctx, from, to, true); err != nil {
		return nil, err
	}
	under := leasedInodes(out.Leases)
	for i := range list {
		if f := &list[i]; under[f.Attr.Ino] {
			out.Files = append(out.Files, &metapb.NearFile{Attr: rpc.AttrToProto(&f.Attr), Extents: rpc.ExtentsToProto(f.Extents)})
		}
	}
	return out, nil
}

func (s *Server) smallFiles(ctx context.Context, from, to dfs.Ino, extents bool) (list []meta.SmallFile, err error) {
	err = s.read(ctx, func(v meta.View) (err error) {
		list, err = v.SmallFiles(from, to, extents)
		return err
	})
	return list, err
}

// leasedInodes is what leases are on.
func leasedInodes(leases []*metapb.Lease) map[dfs.Ino]bool {
	under := make(map[dfs.Ino]bool, len(leases))
	for _, l := range leases {
		under[dfs.Ino(l.Ino)] = true
	}
	return under
}

// ReadDir lists a part of a folder.
func (s *Server) ReadDir(ctx context.Context, req *metapb.ReadDirRequest) (*metapb.ReadDirReply, error) {
	if req.Hint {
		return s.readDirHint(ctx, req)
	}
	l, leases, err := s.leaseToRead(ctx, req.Session, dfs.Ino(req.Ino))
	if err != nil {
		return nil, err
	}
	var list meta.Listing
	err = s.read(ctx, func(v meta.View) (err error) {
		list, err = s.list(v, req)
		return err
	})
	if err == nil && req.Plus {
		more, err := l.leases.read(ctx, dfs.SessionID(req.Session), inodes(&list)...)
		if err != nil {
			return nil, err
		}
		leases = append(leases, more...)
		if err := s.attributes(ctx, &list, nil); err != nil {
			return nil, err
		}
	}
	if err != nil {
		errno, err := verdict(err)
		return &metapb.ReadDirReply{Errno: errno}, err
	}
	return listing(&list, leases), nil
}

// readDirHint is ReadDir for a client that expects that its programs will ask for the
// entries.
func (s *Server) readDirHint(ctx context.Context, req *metapb.ReadDirRequest) (*metapb.ReadDirReply, error) {
	session, ino := dfs.SessionID(req.Session), dfs.Ino(req.Ino)
	l, err := s.serving(ctx)
	if err != nil {
		return nil, err
	}
	leases := l.leases.hint(session, true, ino)
	if len(leases) == 0 {
		return &metapb.ReadDirReply{End: true}, nil
	}
	var list meta.Listing
	var dir dfs.Attr
	err = s.read(ctx, func(v meta.View) (err error) {
		if dir, err = v.GetAttr(ino); err == nil {
			list, err = s.list(v, req)
		}
		return err
	})
	if err == nil {
		// Who shares the folder with others is likely to share the files.
		more := l.leases.hint(session, !leases[0].Exclusive, inodes(&list)...)
		under := leasedInodes(more)
		leases = append(leases, more...)
		err = s.attributes(ctx, &list, func(ino dfs.Ino) bool { return under[ino] })
	}
	if err != nil {
		errno, err := verdict(err)
		return &metapb.ReadDirReply{Errno: errno, End: true}, err
	}
	out := listing(&list, leases)
	out.Attr = rpc.AttrToProto(&dir)
	return out, nil
}

// list reads what a request asks for, without attributes.
func (s *Server) list(v meta.View, req *metapb.ReadDirRequest) (meta.Listing, error) {
	limit := int(min(req.Limit, entriesMax))
	if req.Plus {
		limit = min(limit, entriesFirst)
	}
	return v.ReadDir(s.credOf(req.Session, req.Cred), dfs.Ino(req.Ino), req.Cookie, max(limit, 1), false)
}

// listing is the answer.
func listing(list *meta.Listing, leases []*metapb.Lease) *metapb.ReadDirReply {
	out := &metapb.ReadDirReply{Entries: make([]*metapb.DirEntry, 0, len(list.Entries)), End: list.End, Parent: uint64(list.Parent), Leases: leases}
	for i := range list.Entries {
		e := &list.Entries[i]
		p := &metapb.DirEntry{Name: []byte(e.Name), Ino: uint64(e.Ino), Type: e.Type, Cookie: e.Cookie}
		if e.Attr.Ino != 0 {
			p.Attr = rpc.AttrToProto(&e.Attr)
		}
		out.Entries = append(out.Entries, p)
	}
	return out
}

// inodes is what the entries of a listing lead to.
func inodes(list *meta.Listing) []dfs.Ino {
	inos := make([]dfs.Ino, len(list.Entries))
	for i := range list.Entries {
		inos[i] = list.Entries[i].Ino
	}
	return inos
}

// attributes adds attributes to a listing: of all entries, or of those that which picks.
// What was removed since it was listed has none.
func (s *Server) attributes(ctx context.Context, list *meta.Listing, which func(dfs.Ino) bool) error {
	return s.read(ctx, func(v meta.View) error {
		for i := range list.Entries {
			e := &list.Entries[i]
			if which != nil && !which(e.Ino) {
				continue
			}
			attr, err := v.GetAttr(e.Ino)
			if _, failure := verdict(err); failure != nil {
				return failure
			}
			e.Attr = attr
		}
		return nil
	})
}

// Readlink tells a symlink's target.
func (s *Server) Readlink(ctx context.Context, req *metapb.ReadlinkRequest) (*metapb.ReadlinkReply, error) {
	var target string
	_, err := s.readUnder(ctx, req.Session, dfs.Ino(req.Ino), func(v meta.View) (err error) {
		target, err = v.Readlink(dfs.Ino(req.Ino))
		return err
	})
	errno, err := verdict(err)
	return &metapb.ReadlinkReply{Errno: errno, Target: []byte(target)}, err
}

// GetXattr reads an extended attribute.
func (s *Server) GetXattr(ctx context.Context, req *metapb.GetXattrRequest) (*metapb.GetXattrReply, error) {
	var value []byte
	_, err := s.readUnder(ctx, req.Session, dfs.Ino(req.Ino), func(v meta.View) (err error) {
		value, err = v.GetXattr(s.credOf(req.Session, req.Cred), dfs.Ino(req.Ino), name(req.Name))
		return err
	})
	errno, err := verdict(err)
	return &metapb.GetXattrReply{Errno: errno, Value: value}, err
}

// ListXattr lists the names of extended attributes.
func (s *Server) ListXattr(ctx context.Context, req *metapb.ListXattrRequest) (*metapb.ListXattrReply, error) {
	var names []string
	_, err := s.readUnder(ctx, req.Session, dfs.Ino(req.Ino), func(v meta.View) (err error) {
		names, err = v.ListXattr(s.credOf(req.Session, req.Cred), dfs.Ino(req.Ino))
		return err
	})
	errno, err := verdict(err)
	out := &metapb.ListXattrReply{Errno: errno}
	for _, n := range names {
		out.Names = append(out.Names, []byte(n))
	}
	return out, err
}

// StatFS tells the room there is, as the folder's policy would use it.
func (s *Server) StatFS(ctx context.Context, req *metapb.StatFSRequest) (*metapb.StatFSReply, error) {
	l, counters := dfs.DefaultLayout, meta.Counters{}
	err := s.read(ctx, func(v meta.View) error {
		if attr, err := v.GetAttr(dfs.Ino(req.Ino)); err == nil && attr.Layout.Valid() {
			l = attr.Layout
		}
		var err error
		counters, err = v.Counters()
		return err
	})
	if err != nil {
		return nil, err
	}
	total, free := s.capacity()
	return &metapb.StatFSReply{
		TotalBytes: total / uint64(l.Width()) * uint64(l.Data()), FreeBytes: free / uint64(l.Width()) * uint64(l.Data()), Files: counters.Inodes,
	}, nil
}
