package rpc

import (
	"cmp"
	"maps"
	"slices"

	"dfs"
	"dfs/proto/metapb"
)

// TimeToProto converts t.
func TimeToProto(t dfs.Time) *metapb.Time { return &metapb.Time{Sec: t.Sec, Nsec: t.Nsec} }

// TimeFromProto converts t; nil is the zero time.
func TimeFromProto(t *metapb.Time) dfs.Time { return dfs.Time{Sec: t.GetSec(), Nsec: t.GetNsec()} }

// AttrToProto converts a; nil stays nil.
func AttrToProto(a *dfs.Attr) *metapb.Attr {
	if a == nil {
		return nil
	}
	// One allocation for the message and its four times.
	m := &struct {
		attr  metapb.Attr
		times [4]metapb.Time
	}{}
	for i, t := range [4]dfs.Time{a.Atime, a.Mtime, a.Ctime, a.Btime} {
		m.times[i].Sec, m.times[i].Nsec = t.Sec, t.Nsec
	}
	p := &m.attr
	p.Ino, p.Mode, p.Nlink, p.Uid, p.Gid, p.Rdev = uint64(a.Ino), a.Mode, a.Nlink, a.UID, a.GID, a.Rdev
	p.Layout, p.Size, p.Alloc, p.Change, p.Flags = uint32(a.Layout), a.Size, a.Alloc, a.Change, a.Flags
	p.XattrBytes = a.XattrBytes
	p.Atime, p.Mtime, p.Ctime, p.Btime = &m.times[0], &m.times[1], &m.times[2], &m.times[3]
	return p
}

// AttrFromProto converts a; nil is the zero Attr.
func AttrFromProto(a *metapb.Attr) dfs.Attr {
	return dfs.Attr{
		Ino: dfs.Ino(a.GetIno()), Mode: a.GetMode(), Nlink: a.GetNlink(), UID: a.GetUid(), GID: a.GetGid(), Rdev: a.GetRdev(),
		Layout: dfs.Layout(a.GetLayout()), Size: a.GetSize(), Alloc: a.GetAlloc(),
		Atime: TimeFromProto(a.GetAtime()), Mtime: TimeFromProto(a.GetMtime()),
		Ctime: TimeFromProto(a.GetCtime()), Btime: TimeFromProto(a.GetBtime()),
		Change: a.GetChange(), Flags: a.GetFlags(), XattrBytes: a.GetXattrBytes(),
	}
}

// CredToProto converts c. The groups are shared.
func CredToProto(c dfs.Cred) *metapb.Cred {
	return &metapb.Cred{Uid: c.UID, Gid: c.GID, Groups: c.Groups, Checked: c.Checked}
}

// CredFromProto converts c; nil is nobody's zero Cred: uid 0, unchecked. The groups
// are shared.
func CredFromProto(c *metapb.Cred) dfs.Cred {
	return dfs.Cred{UID: c.GetUid(), GID: c.GetGid(), Groups: c.GetGroups(), Checked: c.GetChecked()}
}

// LockToProto converts l.
func LockToProto(l dfs.Lock) *metapb.Lock {
	return &metapb.Lock{
		Kind: uint32(l.Kind), Type: uint32(l.Type), Owner: l.Owner, File: l.File,
		Start: l.Start, End: l.End, Pid: l.PID, Name: []byte(l.Name), Token: l.Token, Mount: l.Mount,
	}
}

// LockFromProto converts l; nil is the zero Lock, which is not valid.
func LockFromProto(l *metapb.Lock) dfs.Lock {
	return dfs.Lock{
		Kind: dfs.LockKind(l.GetKind()), Type: dfs.LockType(l.GetType()), Owner: l.GetOwner(), File: l.GetFile(),
		Start: l.GetStart(), End: l.GetEnd(), PID: l.GetPid(), Name: string(l.GetName()), Token: l.GetToken(), Mount: l.GetMount(),
	}
}

// ExtentToProto converts e.
func ExtentToProto(e dfs.Extent) *metapb.Extent {
	return &metapb.Extent{Off: e.Off, Len: e.Len, Chunk: uint64(e.Chunk), Record: e.Record, RecordLen: e.RecordLen, Start: e.Start}
}

// ExtentFromProto converts e.
func ExtentFromProto(e *metapb.Extent) dfs.Extent {
	return dfs.Extent{
		Off: e.GetOff(), Len: e.GetLen(), Chunk: dfs.ChunkID(e.GetChunk()),
		Record: e.GetRecord(), RecordLen: e.GetRecordLen(), Start: e.GetStart(),
	}
}

// ExtentsToProto converts a list.
func ExtentsToProto(es []dfs.Extent) []*metapb.Extent {
	out := make([]*metapb.Extent, len(es))
	for i, e := range es {
		out[i] = ExtentToProto(e)
	}
	return out
}

// ExtentsFromProto converts a list.
func ExtentsFromProto(es []*metapb.Extent) []dfs.Extent {
	out := make([]dfs.Extent, len(es))
	for i, e := range es {
		out[i] = ExtentFromProto(e)
	}
	return out
}

// ServerToProto converts s.
//
// What the admin has decided of it stays with the masters: nobody else acts on it.
func ServerToProto(s dfs.Server) *metapb.Server {
	return &metapb.Server{
		Id: uint64(s.ID), Name: s.Name, Addr: s.Addr, Host: s.Host, Zone: s.Zone, Weight: s.Weight, State: uint32(s.State),
	}
}

// ServerFromProto converts s.
func ServerFromProto(s *metapb.Server) dfs.Server {
	return dfs.Server{
		ID: dfs.NodeID(s.GetId()), Name: s.GetName(), Addr: s.GetAddr(), Host: s.GetHost(), Zone: s.GetZone(),
		Weight: s.GetWeight(), State: dfs.ServerState(s.GetState()),
	}
}

// ClusterMapToProto converts m. Home goes over the wire, Acting is derived by the
// receiver. Groups are sorted, so that equal maps are equal messages.
func ClusterMapToProto(m *dfs.ClusterMap) *metapb.ClusterMap {
	out := &metapb.ClusterMap{
		Cluster: uint64(m.Cluster), Epoch: uint64(m.Epoch), Buckets: m.Buckets,
		Servers: make([]*metapb.Server, len(m.Servers)), Acting: make([]*metapb.Acting, 0, len(m.Home)),
		Settings: m.Settings,
	}
	for i, s := range m.Servers {
		out.Servers[i] = ServerToProto(s)
	}
	for _, pg := range slices.Sorted(maps.Keys(m.Home)) {
		out.Acting = append(out.Acting, HomeToProto(pg, m.Home[pg]))
	}
	return out
}

// ClusterMapFromProto converts m and derives the acting sets; the servers come out
// in order of id.
func ClusterMapFromProto(m *metapb.ClusterMap) *dfs.ClusterMap {
	out := &dfs.ClusterMap{
		Cluster: dfs.ClusterID(m.GetCluster()), Epoch: dfs.Epoch(m.GetEpoch()), Buckets: m.GetBuckets(),
		Servers: make([]dfs.Server, len(m.GetServers())), Home: make(map[dfs.PG][]dfs.NodeID, len(m.GetActing())),
		Settings: m.GetSettings(),
	}
	for i, s := range m.GetServers() {
		out.Servers[i] = ServerFromProto(s)
	}
	slices.SortFunc(out.Servers, func(a, b dfs.Server) int { return cmp.Compare(a.ID, b.ID) })
	for _, a := range m.GetActing() {
		pg, home := HomeFromProto(a)
		out.Home[pg] = home
	}
	out.Derive()
	return out
}

// HomeToProto converts one row of ClusterMap.Home.
func HomeToProto(pg dfs.PG, home []dfs.NodeID) *metapb.Acting {
	a := &metapb.Acting{Pg: uint32(pg), Servers: make([]uint64, len(home))}
	for i, id := range home {
		a.Servers[i] = uint64(id)
	}
	return a
}

// HomeFromProto converts one row of ClusterMap.Home.
func HomeFromProto(a *metapb.Acting) (dfs.PG, []dfs.NodeID) {
	home := make([]dfs.NodeID, len(a.GetServers()))
	for i, id := range a.GetServers() {
		home[i] = dfs.NodeID(id)
	}
	return dfs.PG(a.GetPg()), home
}
