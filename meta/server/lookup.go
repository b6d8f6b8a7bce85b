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
)

// Lookup finds a name.
func (s *Server) Lookup(ctx context.Context, req *metapb.LookupRequest) (*metapb.LookupReply, error) {
	var attr dfs.Attr
	err := s.read(ctx, func(v meta.View) (err error) {
		attr, err = v.Lookup(rpc.CredFromProto(req.Cred), dfs.Ino(req.Parent), name(req.Name))
		return err
	})
	if err == nil {
		return &metapb.LookupReply{Attr: rpc.AttrToProto(&attr)}, nil
	}
	errno, err := verdict(err)
	return &metapb.LookupReply{Errno: errno}, err
}

// GetAttr tells an inode's attributes.
func (s *Server) GetAttr(ctx context.Context, req *metapb.GetAttrRequest) (*metapb.GetAttrReply, error) {
	var attr dfs.Attr
	err := s.read(ctx, func(v meta.View) (err error) {
		attr, err = v.GetAttr(dfs.Ino(req.Ino))
		return err
	})
	if err == nil {
		return &metapb.GetAttrReply{Attr: rpc.AttrToProto(&attr)}, nil
	}
	errno, err := verdict(err)
	return &metapb.GetAttrReply{Errno: errno}, err
}

// Open registers that a session has an inode open, then reads it.
func (s *Server) Open(ctx context.Context, req *metapb.OpenRequest) (*metapb.OpenReply, error) {
	session, ino := dfs.SessionID(req.Session), dfs.Ino(req.Ino)
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	// First, so that nobody frees it between.
	held, ok := l.opened(session, ino)
	if !ok {
		return &metapb.OpenReply{Errno: uint32(dfs.ESTALE)}, nil
	}
	out := &metapb.OpenReply{}
	err := s.read(ctx, func(v meta.View) error {
		attr, err := v.GetAttr(ino)
		if err != nil {
			return err
		}
		if err := v.Access(rpc.CredFromProto(req.Cred), ino, accessMask(req.Flags)); err != nil {
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
	err := s.read(ctx, func(v meta.View) error {
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
		return out, nil
	}
	errno, err := verdict(err)
	return &metapb.ExtentsReply{Errno: errno}, err
}

// ReadDir lists a part of a folder.
func (s *Server) ReadDir(ctx context.Context, req *metapb.ReadDirRequest) (*metapb.ReadDirReply, error) {
	limit := int(min(req.Limit, entriesMax))
	if req.Plus {
		limit = min(limit, entriesFirst)
	}
	var list meta.Listing
	err := s.read(ctx, func(v meta.View) (err error) {
		list, err = v.ReadDir(rpc.CredFromProto(req.Cred), dfs.Ino(req.Ino), req.Cookie, max(limit, 1), req.Plus)
		return err
	})
	if err != nil {
		errno, err := verdict(err)
		return &metapb.ReadDirReply{Errno: errno}, err
	}
	out := &metapb.ReadDirReply{Entries: make([]*metapb.DirEntry, len(list.Entries)), End: list.End, Parent: uint64(list.Parent)}
	for i := range list.Entries {
		e := &list.Entries[i]
		out.Entries[i] = &metapb.DirEntry{Name: []byte(e.Name), Ino: uint64(e.Ino), Type: e.Type, Cookie: e.Cookie}
		if req.Plus {
			out.Entries[i].Attr = rpc.AttrToProto(&e.Attr)
		}
	}
	return out, nil
}

// Readlink tells a symlink's target.
func (s *Server) Readlink(ctx context.Context, req *metapb.ReadlinkRequest) (*metapb.ReadlinkReply, error) {
	var target string
	err := s.read(ctx, func(v meta.View) (err error) {
		target, err = v.Readlink(dfs.Ino(req.Ino))
		return err
	})
	errno, err := verdict(err)
	return &metapb.ReadlinkReply{Errno: errno, Target: []byte(target)}, err
}

// GetXattr reads an extended attribute.
func (s *Server) GetXattr(ctx context.Context, req *metapb.GetXattrRequest) (*metapb.GetXattrReply, error) {
	var value []byte
	err := s.read(ctx, func(v meta.View) (err error) {
		value, err = v.GetXattr(rpc.CredFromProto(req.Cred), dfs.Ino(req.Ino), name(req.Name))
		return err
	})
	errno, err := verdict(err)
	return &metapb.GetXattrReply{Errno: errno, Value: value}, err
}

// ListXattr lists the names of extended attributes.
func (s *Server) ListXattr(ctx context.Context, req *metapb.ListXattrRequest) (*metapb.ListXattrReply, error) {
	var names []string
	err := s.read(ctx, func(v meta.View) (err error) {
		names, err = v.ListXattr(rpc.CredFromProto(req.Cred), dfs.Ino(req.Ino))
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
