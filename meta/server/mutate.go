package server

import (
	"context"
	"slices"
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
	accessMax        = 4096
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
	if req.Leased {
		if refused, err := l.late(ctx, session); err != nil || refused {
			return &metapb.MutateReply{Expired: refused}, err
		}
		done, ok := l.tell(session)
		if !ok {
			return nil, rpc.Unavailable("the session is being ended")
		}
		defer done()
	} else if err := l.leases.ready(ctx); err != nil {
		return nil, err
	}
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
		if t := rpc.TimeFromProto(m.Time); req.Leased && m.Time != nil && t.Nsec < 1e9 && t.Sec <= at.Sec+toldAhead {
			commands[i].Time, commands[i].Told = t, true
		}
		if c, ok := op.(*meta.Create); ok && m.GetCreate().Open {
			l.opened(session, c.Ino) // before it exists, so that nobody can free it between
		}
	}
	var changing []dfs.Ino
	if !req.Leased {
		var done func()
		var err error
		if changing, done, err = l.exclude(ctx, session, commands); err != nil {
			return nil, err
		}
		defer done()
	}
	unlocked, err := l.beginLocks(ctx, req, commands)
	if err != nil {
		return nil, err
	}
	defer unlocked()
	allowed, refused, err := s.withinSpace(ctx, commands)
	if err != nil {
		return nil, err
	}
	replies, err := s.node.ProposeIn(ctx, l.term, allowed) // who has which leases is known of this one only
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
		if refused != nil && refused[i] && r.Errno == dfs.EINVAL { // else it was carried out before
			r.Errno = dfs.ENOSPC
		}
		out.Replies[i] = replyToProto(r)
		if c, ok := commands[i].Op.(*meta.Create); ok && req.Mutations[i].GetCreate().Open {
			l.created(session, c.Ino, r, out.Replies[i])
		}
		for _, ino := range r.Orphaned {
			// Under a lease a session opens files without telling.
			if l.leases.holds(session, ino) {
				l.opened(session, ino)
				out.Opened = append(out.Opened, uint64(ino))
			}
		}
		l.suspect(r.Orphaned...)
		if op, is := commands[i].Op.(*meta.SetLock); is && r.Errno == dfs.OK {
			l.locks.took(session, op.Ino, op.Lock)
		}
		if _, made := commands[i].Op.(*meta.Create); made && r.Errno == dfs.OK && r.Attr != nil && !r.Existed {
			out.Leases = append(out.Leases, l.leases.born(session, r.Attr.Ino)...)
		}
	}
	if req.Leased {
		return out, l.tellFiles(commands, replies, out)
	}
	if err := l.fill(out.Leases); err != nil {
		return nil, err
	}
	changed, err := l.tellChanged(session, changing)
	out.Leases = append(out.Leases, changed...)
	return out, err
}

// toldAhead is how many seconds a client's clock may be ahead.
const toldAhead = 2

// late ends a session that comes with changes made under leases which it has not any
// more. While the clients of the last leader are awaited, those leases are good.
func (l *leadership) late(ctx context.Context, session dfs.SessionID) (bool, error) {
	select {
	case <-l.leases.gate:
	default:
		return false, nil
	}
	if l.leases.attached(session) {
		return false, nil
	}
	l.s.logger.Warn("session ended: it came too late with changes made under leases of the last leader", "session", session)
	return true, l.s.failure(l.closeSession(ctx, session))
}

// exclude begins changes by a session that were not made under leases: no other session
// has a lease on any inode of the result until done.
func (l *leadership) exclude(ctx context.Context, session dfs.SessionID, commands []meta.Command) (inos []dfs.Ino, done func(), err error) {
	names, victims, inos := footprint(commands)
	if len(inos) == 0 {
		return nil, func() {}, nil
	}
	if err := l.told(ctx, session, inos...); err != nil {
		return nil, nil, err
	}
	unlock, err := l.leases.lockNames(ctx, names)
	if err != nil {
		return nil, nil, err
	}
	guard := slices.ContainsFunc(commands, guards)
	if err := l.leases.change(ctx, session, inos, guard); err != nil {
		unlock()
		return nil, nil, err
	}
	first := inos
	done = func() { l.leases.done(first, guard); unlock() }
	if len(victims) == 0 {
		return inos, done, nil
	}
	// What the names lead to is changed too; and stays, now that the folders and the
	// names are ours.
	var children []dfs.Ino
	err = l.s.read(ctx, func(v meta.View) error {
		children = children[:0]
		for _, n := range victims {
			attr, err := v.Lookup(dfs.Cred{Checked: true}, n.parent, n.name)
			if _, failure := verdict(err); failure != nil {
				return failure
			}
			if err == nil && !slices.Contains(inos, attr.Ino) && !slices.Contains(children, attr.Ino) {
				children = append(children, attr.Ino)
			}
		}
		return nil
	})
	if err == nil && len(children) > 0 {
		err = l.leases.change(ctx, session, children, false)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return append(slices.Clone(inos), children...), func() { l.leases.done(children, false); l.leases.done(first, guard); unlock() }, nil
}

// guards reports whether a change can be one of who may do what.
func guards(c meta.Command) bool {
	switch op := c.Op.(type) {
	case *meta.SetAttr:
		return op.Mode != nil || op.UID != nil || op.GID != nil
	case *meta.SetXattr:
		return op.Name == dfs.XattrAccessACL
	case *meta.RemoveXattr:
		return op.Name == dfs.XattrAccessACL
	}
	return false
}

// footprint is the names and inodes that changes are about, and those of the names
// that lead to inodes which are changed.
func footprint(commands []meta.Command) (names, victims []entryName, inos []dfs.Ino) {
	for i := range commands {
		switch op := commands[i].Op.(type) {
		case *meta.Create:
			names = append(names, entryName{op.Parent, op.Name})
			inos = append(inos, op.Parent)
		case *meta.Link:
			names = append(names, entryName{op.Parent, op.Name})
			inos = append(inos, op.Parent, op.Ino)
		case *meta.Unlink:
			victims = append(victims, entryName{op.Parent, op.Name})
			inos = append(inos, op.Parent)
		case *meta.Rmdir:
			victims = append(victims, entryName{op.Parent, op.Name})
			inos = append(inos, op.Parent)
		case *meta.Rename:
			victims = append(victims, entryName{op.Parent, op.Name}, entryName{op.NewParent, op.NewName})
			inos = append(inos, op.Parent, op.NewParent)
		case *meta.SetAttr:
			inos = append(inos, op.Ino)
		case *meta.SetXattr:
			inos = append(inos, op.Ino)
		case *meta.RemoveXattr:
			inos = append(inos, op.Ino)
		case *meta.Fallocate:
			inos = append(inos, op.Ino)
		case *meta.CopyRange:
			inos = append(inos, op.From, op.To)
		case *meta.SetPolicy:
			inos = append(inos, op.Ino)
		case *meta.Commit:
			for _, f := range op.Files {
				if !f.Move { // which changes nothing that anybody sees
					inos = append(inos, f.Ino)
				}
			}
		}
	}
	slices.Sort(inos)
	return append(names, victims...), victims, slices.Compact(inos)
}

// tellChanged gives the session leases on what it has changed, with attributes.
func (l *leadership) tellChanged(session dfs.SessionID, inos []dfs.Ino) ([]*metapb.Lease, error) {
	if len(inos) == 0 || !l.leases.attached(session) {
		return nil, nil
	}
	leases := l.leases.grant(session, inos)
	// Of the others it may have leases from before.
	for _, ino := range inos {
		if !slices.ContainsFunc(leases, func(g *metapb.Lease) bool { return g.Ino == uint64(ino) }) {
			leases = append(leases, &metapb.Lease{Ino: uint64(ino)})
		}
	}
	return leases, l.fill(leases)
}

// fill adds attributes to leases.
func (l *leadership) fill(leases []*metapb.Lease) error {
	if len(leases) == 0 {
		return nil
	}
	return l.s.failure(l.s.node.LocalRead(func(v meta.View) error {
		for _, lease := range leases {
			attr, err := v.GetAttr(dfs.Ino(lease.Ino))
			if _, failure := verdict(err); failure != nil {
				return failure
			}
			if err == nil {
				lease.Attr = rpc.AttrToProto(&attr)
			}
		}
		return nil
	}))
}

// tellFiles tells the attributes of files after commits of many.
func (l *leadership) tellFiles(commands []meta.Command, replies []meta.Reply, out *metapb.MutateReply) error {
	var leases []*metapb.Lease
	for i := range commands {
		if op, ok := commands[i].Op.(*meta.Commit); ok && len(op.Files) > 1 && replies[i].Errno == dfs.OK && !replies[i].StaleMap {
			for _, f := range op.Files {
				leases = append(leases, &metapb.Lease{Ino: uint64(f.Ino)})
			}
		}
	}
	out.Leases = append(out.Leases, leases...)
	return l.fill(leases)
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
	out := &metapb.MutationReply{Errno: uint32(r.Errno), Existed: r.Existed, StaleMap: r.StaleMap, Token: r.Token, More: r.More, Copied: r.Copied}
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
		return &meta.Create{Parent: dfs.Ino(o.Parent), Name: name(o.Name), Ino: dfs.Ino(o.Ino), Mode: o.Mode, Rdev: o.Rdev, Target: string(o.Target), Excl: o.Excl, Tmpfile: o.Tmpfile, Umask: o.Umask}, nil
	case *metapb.Mutation_Link:
		return &meta.Link{Ino: dfs.Ino(op.Link.Ino), Parent: dfs.Ino(op.Link.Parent), Name: name(op.Link.Name)}, nil
	case *metapb.Mutation_Unlink:
		return &meta.Unlink{Parent: dfs.Ino(op.Unlink.Parent), Name: name(op.Unlink.Name)}, nil
	case *metapb.Mutation_Rmdir:
		return &meta.Rmdir{Parent: dfs.Ino(op.Rmdir.Parent), Name: name(op.Rmdir.Name)}, nil
	case *metapb.Mutation_Rename:
		o := op.Rename
		return &meta.Rename{Parent: dfs.Ino(o.Parent), Name: name(o.Name), NewParent: dfs.Ino(o.NewParent), NewName: name(o.NewName), Flags: o.Flags, Whiteout: dfs.Ino(o.Whiteout)}, nil
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
	case *metapb.Mutation_Fallocate:
		o := op.Fallocate
		return &meta.Fallocate{Ino: dfs.Ino(o.Ino), Mode: o.Mode, Off: o.Off, Len: o.Len}, nil
	case *metapb.Mutation_CopyRange:
		o := op.CopyRange
		return &meta.CopyRange{From: dfs.Ino(o.From), FromOff: o.FromOff, To: dfs.Ino(o.To), ToOff: o.ToOff, Len: o.Len}, nil
	case *metapb.Mutation_SetLock:
		o := op.SetLock
		if err := bound("name of a lock", len(o.GetLock().GetName()), nameBytesMax); err != nil {
			return nil, err
		}
		return &meta.SetLock{Ino: dfs.Ino(o.Ino), Lock: rpc.LockFromProto(o.Lock), Closed: o.Closed}, nil
	case *metapb.Mutation_PutLocks:
		o := op.PutLocks
		locks := make(dfs.Locks, len(o.Locks))
		for i, l := range o.Locks {
			locks[i] = rpc.LockFromProto(l)
		}
		return &meta.PutLocks{Ino: dfs.Ino(o.Ino), Locks: locks}, nil
	case *metapb.Mutation_SetPolicy:
		return &meta.SetPolicy{Ino: dfs.Ino(op.SetPolicy.Ino), Layout: layout(op.SetPolicy.Layout), KeepTimes: op.SetPolicy.KeepTimes}, nil
	case *metapb.Mutation_Access:
		o := op.Access
		if err := bound("inodes read", len(o.Inos), accessMax); err != nil {
			return nil, err
		}
		access := &meta.Access{Inodes: make([]dfs.Ino, len(o.Inos)), Times: make([]dfs.Time, len(o.Times))}
		for i, ino := range o.Inos {
			access.Inodes[i] = dfs.Ino(ino)
		}
		for i, t := range o.Times {
			access.Times[i] = rpc.TimeFromProto(t)
		}
		return access, nil
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
		if extents += len(f.Extents) + len(f.Was); extents > commitExtentsMax {
			return nil, bound("commit of extents", extents, commitExtentsMax)
		}
		op.Files[i] = meta.FileCommit{
			Ino: dfs.Ino(f.Ino), Extents: rpc.ExtentsFromProto(f.Extents), SizeMin: f.SizeMin, Mtime: rpc.TimeFromProto(f.Mtime), KillSuid: f.KillSuid, Ctime: rpc.TimeFromProto(f.Ctime), Seq: f.Seq,
			Move: f.Move, Was: rpc.ExtentsFromProto(f.Was),
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
