package server

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"dfs"
	"dfs/meta"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Bounds of one request.
const (
	mutationsMax     = 1024
	mutateBytesMax   = 2 << 20 // so that an entry of the log with some requests fits in a message
	commitFilesMax   = 8192
	commitExtentsMax = 65536
	commitChunksMax  = 4096
	nameBytesMax     = dfs.NameMax + 1 // one more lets the state say ENAMETOOLONG
	targetBytesMax   = dfs.PathMax + 1
	groupsMax        = 65536
)

// Mutate carries out a client's changes.
func (s *Server) Mutate(ctx context.Context, req *metapb.MutateRequest) (*metapb.MutateReply, error) {
	if req.Session == 0 || len(req.Mutations) > mutationsMax {
		return nil, status.Errorf(codes.InvalidArgument, "session %d with %d changes: want a session, and at most %d", req.Session, len(req.Mutations), mutationsMax)
	}
	if err := bound("bytes of changes", proto.Size(req), mutateBytesMax); err != nil {
		return nil, err
	}
	// Before the term is taken over, nobody notes what is opened, and the clock is not
	// set to where the last leader's was.
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	defer s.metrics.mutate(len(req.Mutations), time.Now())
	session := dfs.SessionID(req.Session)
	commands := make([]meta.Command, len(req.Mutations))
	at := now()
	for i, m := range req.Mutations {
		op, err := operation(m)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		if policy, ok := op.(*meta.SetPolicy); ok {
			if refused, err := s.prepareLayout(ctx, policy.Layout); err != nil || refused != dfs.OK {
				if err != nil {
					return nil, err
				}
				policy.Layout = 0 // the state refuses it with EINVAL, and remembers the answer
			}
		}
		commands[i] = meta.Command{Session: session, Seq: m.Seq, Acked: req.Acked, Time: at, Cred: rpc.CredFromProto(m.Cred), Op: op}
		if c, ok := op.(*meta.Create); ok && m.GetCreate().Open {
			l.opened(session, c.Ino) // before it exists, so that nobody can free it between
		}
	}
	replies, err := s.node.ProposeAll(ctx, commands)
	if err != nil {
		return nil, s.failure(err)
	}
	out := &metapb.MutateReply{Replies: make([]*metapb.MutationReply, len(replies))}
	for i := range replies {
		r := &replies[i]
		switch {
		case r.Expired:
			return &metapb.MutateReply{Expired: true}, nil
		case r.Duplicate:
			return nil, status.Errorf(codes.FailedPrecondition, "sequence %d was acknowledged before: its answer is forgotten", commands[i].Seq)
		}
		out.Replies[i] = replyToProto(r)
		if c, ok := commands[i].Op.(*meta.Create); ok && req.Mutations[i].GetCreate().Open {
			l.created(session, c.Ino, r, out.Replies[i])
		}
		l.suspect(r.Orphaned...)
	}
	return out, nil
}

// created moves the registration of an open(O_CREAT) to the inode that it opened. One
// that lost its name since and is being freed is as gone as it will be in a moment.
func (l *leadership) created(session dfs.SessionID, wanted dfs.Ino, r *meta.Reply, out *metapb.MutationReply) {
	if r.Attr != nil && r.Attr.Ino == wanted {
		return
	}
	l.released(session, wanted)
	if r.Attr == nil {
		return
	}
	if _, ok := l.opened(session, r.Attr.Ino); !ok {
		out.Errno, out.Attr = uint32(dfs.ESTALE), nil
	}
}

func replyToProto(r *meta.Reply) *metapb.MutationReply {
	out := &metapb.MutationReply{Errno: uint32(r.Errno), Existed: r.Existed, StaleMap: r.StaleMap}
	if r.Attr != nil {
		out.Attr = rpc.AttrToProto(r.Attr)
	}
	if r.Inodes.Len() > 0 {
		out.Inodes = rangeToProto(r.Inodes)
	}
	if r.Chunks.Len() > 0 {
		out.Chunks = rangeToProto(r.Chunks)
	}
	return out
}

func rangeToProto(r meta.Range) *metapb.IDRange { return &metapb.IDRange{From: r.From, To: r.To} }

// bound refuses what no client of ours sends.
func bound(what string, n, most int) error {
	if n > most {
		return status.Errorf(codes.InvalidArgument, "%s of %d: at most %d", what, n, most)
	}
	return nil
}

// operation converts a change, and checks the sizes of what a hostile client may
// have put in it.
func operation(m *metapb.Mutation) (meta.Op, error) {
	if err := bound("groups", len(m.GetCred().GetGroups()), groupsMax); err != nil {
		return nil, err
	}
	switch op := m.GetOp().(type) {
	case *metapb.Mutation_Create:
		o := op.Create
		if err := bound("symlink target", len(o.Target), targetBytesMax); err != nil {
			return nil, err
		}
		return &meta.Create{Parent: dfs.Ino(o.Parent), Name: name(o.Name), Ino: dfs.Ino(o.Ino), Mode: o.Mode, Rdev: o.Rdev, Target: string(o.Target), Excl: o.Excl}, nil
	case *metapb.Mutation_Link:
		return &meta.Link{Ino: dfs.Ino(op.Link.Ino), Parent: dfs.Ino(op.Link.Parent), Name: name(op.Link.Name)}, nil
	case *metapb.Mutation_Unlink:
		return &meta.Unlink{Parent: dfs.Ino(op.Unlink.Parent), Name: name(op.Unlink.Name)}, nil
	case *metapb.Mutation_Rmdir:
		return &meta.Rmdir{Parent: dfs.Ino(op.Rmdir.Parent), Name: name(op.Rmdir.Name)}, nil
	case *metapb.Mutation_Rename:
		o := op.Rename
		return &meta.Rename{Parent: dfs.Ino(o.Parent), Name: name(o.Name), NewParent: dfs.Ino(o.NewParent), NewName: name(o.NewName), Flags: o.Flags}, nil
	case *metapb.Mutation_SetAttr:
		return setAttr(op.SetAttr), nil
	case *metapb.Mutation_SetXattr:
		o := op.SetXattr
		if err := bound("xattr value", len(o.Value), dfs.XattrMax+1); err != nil {
			return nil, err
		}
		return &meta.SetXattr{Ino: dfs.Ino(o.Ino), Name: name(o.Name), Value: o.Value, Flags: o.Flags}, nil
	case *metapb.Mutation_RemoveXattr:
		return &meta.RemoveXattr{Ino: dfs.Ino(op.RemoveXattr.Ino), Name: name(op.RemoveXattr.Name)}, nil
	case *metapb.Mutation_Commit:
		return commit(op.Commit)
	case *metapb.Mutation_SetPolicy:
		return &meta.SetPolicy{Ino: dfs.Ino(op.SetPolicy.Ino), Layout: layout(op.SetPolicy.Layout)}, nil
	case *metapb.Mutation_GrantIds:
		return &meta.GrantIDs{Inodes: op.GrantIds.Inodes, Chunks: op.GrantIds.Chunks}, nil
	}
	return nil, status.Error(codes.InvalidArgument, "a change of a kind that this master does not know")
}

// name cuts a name that is too long in any case.
func name(b []byte) string { return string(b[:min(len(b), nameBytesMax)]) }

// layout is 0, which is none, for a number that is no layout.
func layout(n uint32) dfs.Layout {
	if l := dfs.Layout(n); uint32(l) == n && l.Valid() {
		return l
	}
	return 0
}

func setAttr(o *metapb.SetAttr) *meta.SetAttr {
	op := &meta.SetAttr{
		Ino: dfs.Ino(o.Ino), Mode: o.Mode, UID: o.Uid, GID: o.Gid, Size: o.Size,
		AtimeNow: o.AtimeNow, MtimeNow: o.MtimeNow, Handle: o.Handle, KillSuid: o.KillSuid,
	}
	if o.Atime != nil {
		t := rpc.TimeFromProto(o.Atime)
		op.Atime = &t
	}
	if o.Mtime != nil {
		t := rpc.TimeFromProto(o.Mtime)
		op.Mtime = &t
	}
	return op
}

func commit(o *metapb.Commit) (meta.Op, error) {
	if err := bound("commit of files", len(o.Files), commitFilesMax); err != nil {
		return nil, err
	}
	if err := bound("commit of chunks", len(o.Chunks), commitChunksMax); err != nil {
		return nil, err
	}
	op := &meta.Commit{Files: make([]meta.FileCommit, len(o.Files)), Chunks: make([]meta.ChunkCommit, len(o.Chunks))}
	extents := 0
	for i, f := range o.Files {
		if extents += len(f.Extents); extents > commitExtentsMax {
			return nil, bound("commit of extents", extents, commitExtentsMax)
		}
		op.Files[i] = meta.FileCommit{
			Ino: dfs.Ino(f.Ino), Extents: rpc.ExtentsFromProto(f.Extents), SizeMin: f.SizeMin, Mtime: rpc.TimeFromProto(f.Mtime), KillSuid: f.KillSuid,
		}
	}
	for i, c := range o.Chunks {
		if err := bound("servers of a chunk", len(c.Servers), dfs.DataMax+dfs.ParityMax); err != nil {
			return nil, err
		}
		servers := make([]dfs.NodeID, len(c.Servers))
		for j, id := range c.Servers {
			servers[j] = dfs.NodeID(id)
		}
		op.Chunks[i] = meta.ChunkCommit{Chunk: dfs.ChunkID(c.Chunk), Committed: c.Committed, Servers: servers, Sealed: c.Sealed}
	}
	return op, nil
}
