package meta

import "dfs"

func (o *PutMap) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	cl, err := tx.v.cluster()
	if err != nil {
		return Reply{}, err
	}
	if cl.epoch != o.Epoch {
		return Reply{Epoch: cl.epoch}, dfs.EAGAIN
	}
	m, err := tx.v.Map()
	if err != nil {
		return Reply{}, err
	}
	if !o.valid(m) {
		return Reply{Epoch: cl.epoch}, dfs.EINVAL
	}
	cl.epoch++
	if err := o.putServers(tx, m.Servers); err != nil {
		return Reply{}, err
	}
	for i := range o.Acting {
		if err := o.putHome(tx, &o.Acting[i], cl.epoch); err != nil {
			return Reply{}, err
		}
	}
	return Reply{Epoch: cl.epoch}, tx.t.Set(key0(kindCluster), cl.encode(nil))
}

// valid reports whether the map can become what the command says.
func (o *PutMap) valid(m *dfs.ClusterMap) bool {
	servers := o.Servers
	if len(servers) == 0 {
		servers = m.Servers
	}
	ids := make(map[dfs.NodeID]bool, len(servers))
	names := make(map[string]bool, len(servers))
	for i := range servers {
		s := &servers[i]
		if s.ID == 0 || s.Name == "" || s.State < dfs.ServerUp || s.State > dfs.ServerGone || ids[s.ID] || names[s.Name] ||
			max(len(s.Name), len(s.Addr), len(s.Host), len(s.Zone)) > hostMax {
			return false
		}
		ids[s.ID], names[s.Name] = true, true
	}
	homes := make(map[dfs.PG]bool, len(o.Acting))
	for i := range o.Acting {
		h := &o.Acting[i]
		if homes[h.PG] || !validHome(h, m.Buckets, ids) {
			return false
		}
		homes[h.PG] = true
	}
	// A server leaves the map only when no home names it any more.
	for pg, home := range m.Home {
		for _, id := range home {
			if id != 0 && !ids[id] && !homes[pg] {
				return false
			}
		}
	}
	return true
}

func validHome(h *Home, buckets uint32, servers map[dfs.NodeID]bool) bool {
	l := h.PG.Layout()
	if !l.Valid() || uint32(h.PG.Bucket()) >= buckets || len(h.Servers) != l.Width() {
		return false
	}
	for i, id := range h.Servers {
		if id == 0 {
			continue
		}
		if !servers[id] {
			return false
		}
		for _, other := range h.Servers[:i] {
			if other == id {
				return false // two fragments on one server would be lost together
			}
		}
	}
	return true
}

// putServers makes the rows what the command says; those that stay are not written.
func (o *PutMap) putServers(tx *tx, old []dfs.Server) error {
	if len(o.Servers) == 0 {
		return nil
	}
	was := make(map[dfs.NodeID]dfs.Server, len(old))
	for _, s := range old {
		was[s.ID] = s
	}
	for i := range o.Servers {
		s := &o.Servers[i]
		if was[s.ID] != *s {
			if err := tx.t.Set(key1(kindServer, uint64(s.ID)), encodeServer(nil, s)); err != nil {
				return err
			}
		}
		delete(was, s.ID)
	}
	for i := range old { // in order of id
		if _, gone := was[old[i].ID]; gone {
			if err := tx.t.Delete(key1(kindServer, uint64(old[i].ID))); err != nil {
				return err
			}
		}
	}
	return nil
}

// putHome writes a home. A position that gets another server remembers since
// when: fragments of before are not on that one.
func (o *PutMap) putHome(tx *tx, h *Home, epoch dfs.Epoch) error {
	old, err := tx.v.home(h.PG)
	if err != nil {
		return err
	}
	home := make([]position, len(h.Servers))
	for i, id := range h.Servers {
		home[i] = position{server: id, since: epoch}
		if i < len(old) && old[i].server == id {
			home[i].since = old[i].since
		}
	}
	return tx.t.Set(key1(kindHome, uint64(h.PG)), encodeHome(nil, home))
}
