package replica

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"dfs"
	"dfs/meta"
	"dfs/proto/logpb"
)

// encodeBatch makes the data of a Raft entry. Its version is the highest level of its
// commands: a master that does not know that level stops with a clear error, instead of
// passing over what it cannot see.
func encodeBatch(id uint64, commands []meta.Command) ([]byte, error) {
	b := &logpb.Batch{Version: levelOf(commands), Id: id, Commands: make([]*logpb.Command, len(commands))}
	for i := range commands {
		c, err := commandToProto(&commands[i])
		if err != nil {
			return nil, err
		}
		b.Commands[i] = c
	}
	return proto.Marshal(b)
}

// levelOf is the highest level of commands.
func levelOf(commands []meta.Command) uint32 {
	level := uint32(1)
	for i := range commands {
		level = max(level, meta.LevelOf(commands[i].Op))
	}
	return level
}

// decodeBatch reads the data of a Raft entry, up to a level that is understood.
func decodeBatch(data []byte, level uint32) (id uint64, commands []meta.Command, err error) {
	var b logpb.Batch
	if err := proto.Unmarshal(data, &b); err != nil {
		return 0, nil, fmt.Errorf("raft entry: %w", err)
	}
	if b.Version == 0 || b.Version > level {
		return 0, nil, fmt.Errorf("raft entry has format version %d, this program knows %d: use the version of dfs that wrote it", b.Version, level)
	}
	commands = make([]meta.Command, len(b.Commands))
	for i, c := range b.Commands {
		if commands[i], err = commandFromProto(c); err != nil {
			return 0, nil, err
		}
	}
	return b.Id, commands, nil
}

func timeToProto(t dfs.Time) *logpb.Time {
	if t == (dfs.Time{}) {
		return nil
	}
	return &logpb.Time{Sec: t.Sec, Nsec: t.Nsec}
}

func chunkNumber(c dfs.ChunkID) uint64 { return uint64(c) }

func chunkID(n uint64) dfs.ChunkID { return dfs.ChunkID(n) }

func timeFromProto(t *logpb.Time) dfs.Time { return dfs.Time{Sec: t.GetSec(), Nsec: t.GetNsec()} }

func timePointer(t *logpb.Time) *dfs.Time {
	if t == nil {
		return nil
	}
	u := timeFromProto(t)
	return &u
}

func timePointerToProto(t *dfs.Time) *logpb.Time {
	if t == nil {
		return nil
	}
	return &logpb.Time{Sec: t.Sec, Nsec: t.Nsec}
}

// slice maps a slice; nil stays nil.
func slice[A, B any](in []A, fn func(A) B) []B {
	if in == nil {
		return nil
	}
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = fn(a)
	}
	return out
}

func extentToProto(e dfs.Extent) *logpb.Extent {
	return &logpb.Extent{Off: e.Off, Len: e.Len, Chunk: uint64(e.Chunk), Record: e.Record, RecordLen: e.RecordLen, Start: e.Start}
}

func extentFromProto(e *logpb.Extent) dfs.Extent {
	return dfs.Extent{Off: e.GetOff(), Len: e.GetLen(), Chunk: dfs.ChunkID(e.GetChunk()), Record: e.GetRecord(), RecordLen: e.GetRecordLen(), Start: e.GetStart()}
}

func lockToProto(l dfs.Lock) *logpb.Lock {
	return &logpb.Lock{
		Kind: uint32(l.Kind), Type: uint32(l.Type), Owner: l.Owner, File: l.File, Start: l.Start, End: l.End, Pid: l.PID, Name: []byte(l.Name),
		Mount: l.Mount,
	}
}

func lockFromProto(l *logpb.Lock) dfs.Lock {
	return dfs.Lock{
		Kind: dfs.LockKind(l.GetKind()), Type: dfs.LockType(l.GetType()), Owner: l.GetOwner(), File: l.GetFile(),
		Start: l.GetStart(), End: l.GetEnd(), PID: l.GetPid(), Name: string(l.GetName()), Mount: l.GetMount(),
	}
}

func nodesToProto(ids []dfs.NodeID) []uint64 {
	return slice(ids, func(n dfs.NodeID) uint64 { return uint64(n) })
}

func nodesFromProto(ids []uint64) []dfs.NodeID {
	return slice(ids, func(n uint64) dfs.NodeID { return dfs.NodeID(n) })
}

func commitToProto(op *meta.Commit) *logpb.Commit {
	return &logpb.Commit{
		Files: slice(op.Files, func(f meta.FileCommit) *logpb.FileCommit {
			return &logpb.FileCommit{
				Ino: uint64(f.Ino), Extents: slice(f.Extents, extentToProto), SizeMin: f.SizeMin, Mtime: timeToProto(f.Mtime), KillSuid: f.KillSuid,
				Ctime: timeToProto(f.Ctime), Seq: f.Seq, Prev: f.Prev, Move: f.Move, Was: slice(f.Was, extentToProto),
			}
		}),
		Chunks: slice(op.Chunks, func(c meta.ChunkCommit) *logpb.ChunkCommit {
			return &logpb.ChunkCommit{Chunk: uint64(c.Chunk), Committed: c.Committed, Servers: nodesToProto(c.Servers), Sealed: c.Sealed}
		}),
	}
}

func commitFromProto(op *logpb.Commit) *meta.Commit {
	return &meta.Commit{
		Files: slice(op.Files, func(f *logpb.FileCommit) meta.FileCommit {
			return meta.FileCommit{
				Ino: dfs.Ino(f.GetIno()), Extents: slice(f.GetExtents(), extentFromProto), SizeMin: f.GetSizeMin(), Mtime: timeFromProto(f.GetMtime()), KillSuid: f.GetKillSuid(),
				Ctime: timeFromProto(f.GetCtime()), Seq: f.GetSeq(), Prev: f.GetPrev(), Move: f.GetMove(), Was: slice(f.GetWas(), extentFromProto),
			}
		}),
		Chunks: slice(op.Chunks, func(c *logpb.ChunkCommit) meta.ChunkCommit {
			return meta.ChunkCommit{Chunk: dfs.ChunkID(c.GetChunk()), Committed: c.GetCommitted(), Servers: nodesFromProto(c.GetServers()), Sealed: c.GetSealed()}
		}),
	}
}

func putMapToProto(op *meta.PutMap) *logpb.PutMap {
	return &logpb.PutMap{
		Epoch: uint64(op.Epoch),
		Servers: slice(op.Servers, func(s dfs.Server) *logpb.Server {
			return &logpb.Server{Id: uint64(s.ID), Name: s.Name, Addr: s.Addr, Host: s.Host, Zone: s.Zone, Weight: s.Weight, State: uint32(s.State),
				Leaving: s.Leaving, Weighted: s.Weighted, Until: s.Until}
		}),
		Acting: slice(op.Acting, func(h meta.Home) *logpb.Acting {
			return &logpb.Acting{Pg: uint32(h.PG), Servers: nodesToProto(h.Servers)}
		}),
	}
}

func putMapFromProto(op *logpb.PutMap) *meta.PutMap {
	return &meta.PutMap{
		Epoch: dfs.Epoch(op.Epoch),
		Servers: slice(op.Servers, func(s *logpb.Server) dfs.Server {
			return dfs.Server{ID: dfs.NodeID(s.GetId()), Name: s.GetName(), Addr: s.GetAddr(), Host: s.GetHost(), Zone: s.GetZone(), Weight: s.GetWeight(), State: dfs.ServerState(s.GetState()),
				Leaving: s.GetLeaving(), Weighted: s.GetWeighted(), Until: s.GetUntil()}
		}),
		Acting: slice(op.Acting, func(a *logpb.Acting) meta.Home {
			return meta.Home{PG: dfs.PG(a.GetPg()), Servers: nodesFromProto(a.GetServers())}
		}),
	}
}

func jobToProto(j *meta.Job) *logpb.PutJob {
	return &logpb.PutJob{
		Id: j.ID, Revision: j.Revision, Kind: uint32(j.Kind), State: uint32(j.State), Ino: uint64(j.Ino), Layout: uint32(j.Layout), Path: []byte(j.Path),
		Started: timeToProto(j.Started), Ended: timeToProto(j.Ended), Counted: j.Counted,
		Places: slice(j.Places, func(p meta.Place) *logpb.Place { return &logpb.Place{Ino: uint64(p.Ino), Cookie: p.Cookie} }),
		Total:  j.Total, Bytes: j.Bytes, Left: j.Left, Folders: j.Folders, Files: j.Files, Changed: j.Changed, Skipped: j.Skipped, Error: []byte(j.Error),
	}
}

func jobFromProto(p *logpb.PutJob) meta.Job {
	return meta.Job{
		ID: p.Id, Revision: p.Revision, Kind: meta.JobKind(p.Kind), State: meta.JobState(p.State), Ino: dfs.Ino(p.Ino), Layout: dfs.Layout(p.Layout), Path: string(p.Path),
		Started: timeFromProto(p.Started), Ended: timeFromProto(p.Ended), Counted: p.Counted,
		Places: slice(p.Places, func(p *logpb.Place) meta.Place { return meta.Place{Ino: dfs.Ino(p.GetIno()), Cookie: p.GetCookie()} }),
		Total:  p.Total, Bytes: p.Bytes, Left: p.Left, Folders: p.Folders, Files: p.Files, Changed: p.Changed, Skipped: p.Skipped, Error: string(p.Error),
	}
}

func setAttrToProto(op *meta.SetAttr) *logpb.SetAttr {
	return &logpb.SetAttr{
		Ino: uint64(op.Ino), Mode: op.Mode, Uid: op.UID, Gid: op.GID, Size: op.Size,
		Atime: timePointerToProto(op.Atime), Mtime: timePointerToProto(op.Mtime), AtimeNow: op.AtimeNow, MtimeNow: op.MtimeNow,
		Handle: op.Handle, KillSuid: op.KillSuid,
	}
}

func setAttrFromProto(op *logpb.SetAttr) *meta.SetAttr {
	return &meta.SetAttr{
		Ino: dfs.Ino(op.Ino), Mode: op.Mode, UID: op.Uid, GID: op.Gid, Size: op.Size,
		Atime: timePointer(op.Atime), Mtime: timePointer(op.Mtime), AtimeNow: op.AtimeNow, MtimeNow: op.MtimeNow,
		Handle: op.Handle, KillSuid: op.KillSuid,
	}
}

// commandToProto converts a command for the log.
func commandToProto(c *meta.Command) (*logpb.Command, error) {
	p := &logpb.Command{
		Session: uint64(c.Session), Seq: c.Seq, Acked: c.Acked, Time: timeToProto(c.Time),
		Cred: &logpb.Cred{Uid: c.Cred.UID, Gid: c.Cred.GID, Groups: c.Cred.Groups, Checked: c.Cred.Checked},
	}
	switch op := c.Op.(type) {
	case *meta.Create:
		p.Op = &logpb.Command_Create{Create: &logpb.Create{
			Parent: uint64(op.Parent), Name: []byte(op.Name), Ino: uint64(op.Ino), Mode: op.Mode, Rdev: op.Rdev, Target: []byte(op.Target), Excl: op.Excl,
			Tmpfile: op.Tmpfile, Umask: op.Umask,
		}}
	case *meta.Link:
		p.Op = &logpb.Command_Link{Link: &logpb.Link{Ino: uint64(op.Ino), Parent: uint64(op.Parent), Name: []byte(op.Name)}}
	case *meta.Unlink:
		p.Op = &logpb.Command_Unlink{Unlink: &logpb.Unlink{Parent: uint64(op.Parent), Name: []byte(op.Name)}}
	case *meta.Rmdir:
		p.Op = &logpb.Command_Rmdir{Rmdir: &logpb.Rmdir{Parent: uint64(op.Parent), Name: []byte(op.Name)}}
	case *meta.Rename:
		p.Op = &logpb.Command_Rename{Rename: &logpb.Rename{
			Parent: uint64(op.Parent), Name: []byte(op.Name), NewParent: uint64(op.NewParent), NewName: []byte(op.NewName), Flags: op.Flags, Whiteout: uint64(op.Whiteout),
		}}
	case *meta.SetAttr:
		p.Op = &logpb.Command_SetAttr{SetAttr: setAttrToProto(op)}
	case *meta.SetXattr:
		p.Op = &logpb.Command_SetXattr{SetXattr: &logpb.SetXattr{Ino: uint64(op.Ino), Name: []byte(op.Name), Value: op.Value, Flags: op.Flags}}
	case *meta.RemoveXattr:
		p.Op = &logpb.Command_RemoveXattr{RemoveXattr: &logpb.RemoveXattr{Ino: uint64(op.Ino), Name: []byte(op.Name)}}
	case *meta.Commit:
		p.Op = &logpb.Command_Commit{Commit: commitToProto(op)}
	case *meta.SetLock:
		p.Op = &logpb.Command_SetLock{SetLock: &logpb.SetLock{Ino: uint64(op.Ino), Closed: op.Closed, Refuse: op.Refuse, Lock: lockToProto(op.Lock)}}
	case *meta.PutLocks:
		p.Op = &logpb.Command_PutLocks{PutLocks: &logpb.PutLocks{Ino: uint64(op.Ino), Locks: slice(op.Locks, lockToProto)}}
	case *meta.Fallocate:
		p.Op = &logpb.Command_Fallocate{Fallocate: &logpb.Fallocate{Ino: uint64(op.Ino), Mode: op.Mode, Off: op.Off, Len: op.Len}}
	case *meta.CopyRange:
		p.Op = &logpb.Command_CopyRange{CopyRange: &logpb.CopyRange{From: uint64(op.From), FromOff: op.FromOff, To: uint64(op.To), ToOff: op.ToOff, Len: op.Len}}
	case *meta.SetPolicy:
		p.Op = &logpb.Command_SetPolicy{SetPolicy: &logpb.SetPolicy{Ino: uint64(op.Ino), Layout: uint32(op.Layout), KeepTimes: op.KeepTimes}}
	case *meta.Access:
		p.Op = &logpb.Command_Access{Access: &logpb.Access{Inos: slice(op.Inodes, func(i dfs.Ino) uint64 { return uint64(i) }), Times: slice(op.Times, timeToProto)}}
	case *meta.GrantIDs:
		p.Op = &logpb.Command_GrantIds{GrantIds: &logpb.GrantIDs{Inodes: op.Inodes, Chunks: op.Chunks}}
	case *meta.OpenSession:
		p.Op = &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{Nonce: op.Nonce, Host: op.Host, Mountpoint: op.Mountpoint, Version: op.Version, Restrict: uint32(op.Restrict)}}
	case *meta.CloseSession:
		p.Op = &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: uint64(op.Session)}}
	case *meta.Reap:
		p.Op = &logpb.Command_Reap{Reap: &logpb.Reap{Inodes: slice(op.Inodes, func(i dfs.Ino) uint64 { return uint64(i) }), ExtentsMax: op.ExtentsMax}}
	case *meta.Replay:
		p.Op = &logpb.Command_Replay{Replay: &logpb.Replay{Session: uint64(op.Session), Commit: commitToProto(&op.Commit)}}
	case *meta.SetPresent:
		p.Op = &logpb.Command_SetPresent{SetPresent: &logpb.SetPresent{Server: uint64(op.Server), Have: slice(op.Have, chunkNumber), Lack: slice(op.Lack, chunkNumber)}}
	case *meta.DropChunks:
		p.Op = &logpb.Command_DropChunks{DropChunks: &logpb.DropChunks{Chunks: slice(op.Chunks, chunkNumber)}}
	case *meta.Bootstrap:
		p.Op = &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{Cluster: uint64(op.Cluster), Buckets: op.Buckets}}
	case *meta.PutMap:
		p.Op = &logpb.Command_PutMap{PutMap: putMapToProto(op)}
	case *meta.PutMaster:
		p.Op = &logpb.Command_PutMaster{PutMaster: &logpb.PutMaster{Id: uint64(op.ID), Name: op.Name, Addr: op.Addr}}
	case *meta.RemoveMaster:
		p.Op = &logpb.Command_RemoveMaster{RemoveMaster: &logpb.RemoveMaster{Id: uint64(op.ID)}}
	case *meta.SetConfig:
		p.Op = &logpb.Command_SetConfig{SetConfig: &logpb.SetConfig{Name: op.Name, Value: op.Value}}
	case *meta.PutJob:
		p.Op = &logpb.Command_PutJob{PutJob: jobToProto(&op.Job)}
	case *meta.SetLevel:
		p.Op = &logpb.Command_SetLevel{SetLevel: &logpb.SetLevel{Level: op.Level, Program: op.Program}}
	default:
		return nil, fmt.Errorf("the log has no form for %T", c.Op)
	}
	return p, nil
}

// commandFromProto converts a command from the log. An operation that this
// version does not know is an error: skipping it would make this master differ.
func commandFromProto(p *logpb.Command) (meta.Command, error) {
	c := meta.Command{
		Session: dfs.SessionID(p.GetSession()), Seq: p.GetSeq(), Acked: p.GetAcked(), Time: timeFromProto(p.GetTime()),
		Cred: dfs.Cred{UID: p.GetCred().GetUid(), GID: p.GetCred().GetGid(), Groups: p.GetCred().GetGroups(), Checked: p.GetCred().GetChecked()},
	}
	switch op := p.GetOp().(type) {
	case *logpb.Command_Create:
		o := op.Create
		c.Op = &meta.Create{Parent: dfs.Ino(o.Parent), Name: string(o.Name), Ino: dfs.Ino(o.Ino), Mode: o.Mode, Rdev: o.Rdev, Target: string(o.Target), Excl: o.Excl, Tmpfile: o.Tmpfile, Umask: o.Umask}
	case *logpb.Command_Link:
		c.Op = &meta.Link{Ino: dfs.Ino(op.Link.Ino), Parent: dfs.Ino(op.Link.Parent), Name: string(op.Link.Name)}
	case *logpb.Command_Unlink:
		c.Op = &meta.Unlink{Parent: dfs.Ino(op.Unlink.Parent), Name: string(op.Unlink.Name)}
	case *logpb.Command_Rmdir:
		c.Op = &meta.Rmdir{Parent: dfs.Ino(op.Rmdir.Parent), Name: string(op.Rmdir.Name)}
	case *logpb.Command_Rename:
		o := op.Rename
		c.Op = &meta.Rename{Parent: dfs.Ino(o.Parent), Name: string(o.Name), NewParent: dfs.Ino(o.NewParent), NewName: string(o.NewName), Flags: o.Flags, Whiteout: dfs.Ino(o.Whiteout)}
	case *logpb.Command_SetAttr:
		c.Op = setAttrFromProto(op.SetAttr)
	case *logpb.Command_SetXattr:
		o := op.SetXattr
		c.Op = &meta.SetXattr{Ino: dfs.Ino(o.Ino), Name: string(o.Name), Value: o.Value, Flags: o.Flags}
	case *logpb.Command_RemoveXattr:
		c.Op = &meta.RemoveXattr{Ino: dfs.Ino(op.RemoveXattr.Ino), Name: string(op.RemoveXattr.Name)}
	case *logpb.Command_Commit:
		c.Op = commitFromProto(op.Commit)
	case *logpb.Command_SetLock:
		o := op.SetLock
		c.Op = &meta.SetLock{Ino: dfs.Ino(o.Ino), Closed: o.Closed, Refuse: o.Refuse, Lock: lockFromProto(o.Lock)}
	case *logpb.Command_PutLocks:
		c.Op = &meta.PutLocks{Ino: dfs.Ino(op.PutLocks.Ino), Locks: slice(op.PutLocks.Locks, lockFromProto)}
	case *logpb.Command_Fallocate:
		o := op.Fallocate
		c.Op = &meta.Fallocate{Ino: dfs.Ino(o.Ino), Mode: o.Mode, Off: o.Off, Len: o.Len}
	case *logpb.Command_CopyRange:
		o := op.CopyRange
		c.Op = &meta.CopyRange{From: dfs.Ino(o.From), FromOff: o.FromOff, To: dfs.Ino(o.To), ToOff: o.ToOff, Len: o.Len}
	case *logpb.Command_SetPolicy:
		c.Op = &meta.SetPolicy{Ino: dfs.Ino(op.SetPolicy.Ino), Layout: dfs.Layout(op.SetPolicy.Layout), KeepTimes: op.SetPolicy.KeepTimes}
	case *logpb.Command_Access:
		c.Op = &meta.Access{Inodes: slice(op.Access.Inos, func(i uint64) dfs.Ino { return dfs.Ino(i) }), Times: slice(op.Access.Times, timeFromProto)}
	case *logpb.Command_GrantIds:
		c.Op = &meta.GrantIDs{Inodes: op.GrantIds.Inodes, Chunks: op.GrantIds.Chunks}
	case *logpb.Command_OpenSession:
		o := op.OpenSession
		c.Op = &meta.OpenSession{Nonce: o.Nonce, Host: o.Host, Mountpoint: o.Mountpoint, Version: o.Version, Restrict: dfs.Restrictions(o.Restrict)}
	case *logpb.Command_CloseSession:
		c.Op = &meta.CloseSession{Session: dfs.SessionID(op.CloseSession.Session)}
	case *logpb.Command_Reap:
		c.Op = &meta.Reap{Inodes: slice(op.Reap.Inodes, func(i uint64) dfs.Ino { return dfs.Ino(i) }), ExtentsMax: op.Reap.ExtentsMax}
	case *logpb.Command_Replay:
		c.Op = &meta.Replay{Session: dfs.SessionID(op.Replay.GetSession()), Commit: *commitFromProto(op.Replay.GetCommit())}
	case *logpb.Command_SetPresent:
		o := op.SetPresent
		c.Op = &meta.SetPresent{Server: dfs.NodeID(o.Server), Have: slice(o.Have, chunkID), Lack: slice(o.Lack, chunkID)}
	case *logpb.Command_DropChunks:
		c.Op = &meta.DropChunks{Chunks: slice(op.DropChunks.Chunks, chunkID)}
	case *logpb.Command_Bootstrap:
		c.Op = &meta.Bootstrap{Cluster: dfs.ClusterID(op.Bootstrap.Cluster), Buckets: op.Bootstrap.Buckets}
	case *logpb.Command_PutMap:
		c.Op = putMapFromProto(op.PutMap)
	case *logpb.Command_PutMaster:
		c.Op = &meta.PutMaster{ID: dfs.NodeID(op.PutMaster.Id), Name: op.PutMaster.Name, Addr: op.PutMaster.Addr}
	case *logpb.Command_RemoveMaster:
		c.Op = &meta.RemoveMaster{ID: dfs.NodeID(op.RemoveMaster.Id)}
	case *logpb.Command_SetConfig:
		c.Op = &meta.SetConfig{Name: op.SetConfig.Name, Value: op.SetConfig.Value}
	case *logpb.Command_PutJob:
		c.Op = &meta.PutJob{Job: jobFromProto(op.PutJob)}
	case *logpb.Command_SetLevel:
		c.Op = &meta.SetLevel{Level: op.SetLevel.Level, Program: op.SetLevel.Program}
	default:
		return meta.Command{}, fmt.Errorf("the log holds an operation that this program does not know: a newer version of dfs wrote it")
	}
	return c, nil
}
