package placement

import (
	"maps"
	"slices"

	"dfs"
)

// Next computes which homes the masters should write down now, for the layouts in
// use. changed lists the groups whose home differs from the map's, in order, and
// home has their new rows; empty means that nothing is to be done. The rules:
//
//   - A group without a home gets one among the servers that are up.
//   - A server keeps its position while it is up, down or draining: when it is back,
//     its data is where the chunks' records say.
//   - A position that has no server, or one that is gone for ever, goes to a server
//     that is up, as the ring would choose it beside the others of the row.
//   - A server that is down leaves a group of which leaves says that it has been away for
//     too long, when another can take its position. leaves may be nil: none does.
//   - A group of which empty says that it holds no data goes where the ring wants it
//     over the servers that are up. empty may be nil: no group is known to be empty.
//
// It does not look at Acting. The rows it returns are new.
func Next(m *dfs.ClusterMap, layouts []dfs.Layout, empty func(dfs.PG) bool, leaves func(dfs.PG, dfs.NodeID) bool) (changed []dfs.PG, home map[dfs.PG][]dfs.NodeID) {
	home = map[dfs.PG][]dfs.NodeID{}
	ring := newRing(m.Servers, func(s dfs.ServerState) bool { return s == dfs.ServerUp })
	layouts = slices.Clone(layouts)
	slices.Sort(layouts)
	for _, l := range slices.Compact(layouts) {
		maps.Copy(home, nextOf(m, ring, l, empty, leaves))
	}
	return slices.Sorted(maps.Keys(home)), home
}

func nextOf(m *dfs.ClusterMap, ring *Ring, l dfs.Layout, empty func(dfs.PG) bool, leaves func(dfs.PG, dfs.NodeID) bool) map[dfs.PG][]dfs.NodeID {
	out := map[dfs.PG][]dfs.NodeID{}
	target := ring.Assign(l, m.Buckets)
	fill := newAssignment(ring, l, m.Buckets)
	var holes []dfs.PG
	for b := range m.Buckets {
		pg := dfs.MakePG(l, uint16(b))
		old := m.Home[pg]
		var row []dfs.NodeID
		switch {
		case len(old) != l.Width():
			row = target[b]
		case empty != nil && empty(pg):
			row = settle(old, target[b])
		default:
			row = keep(m, pg, leaves)
		}
		for _, id := range row {
			if s := ring.index(id); s >= 0 {
				fill.load[s]++
			}
		}
		if slices.Contains(row, 0) {
			holes = append(holes, pg)
		}
		out[pg] = row
	}
	for _, pg := range holes {
		fill.holes(pg, out[pg])
		stay(m, pg, out[pg])
	}
	maps.DeleteFunc(out, func(pg dfs.PG, row []dfs.NodeID) bool { return slices.Equal(row, m.Home[pg]) })
	return out
}

// keep is a row without the servers that are gone for ever or have been away for too long.
func keep(m *dfs.ClusterMap, pg dfs.PG, leaves func(dfs.PG, dfs.NodeID) bool) []dfs.NodeID {
	row := slices.Clone(m.Home[pg])
	for i, id := range row {
		s := m.Server(id)
		if s == nil || s.State == dfs.ServerGone || s.State == dfs.ServerDown && leaves != nil && leaves(pg, id) {
			row[i] = 0
		}
	}
	return row
}

// stay gives positions that nobody could take back to those who should have left.
func stay(m *dfs.ClusterMap, pg dfs.PG, row []dfs.NodeID) {
	old := m.Home[pg]
	for i := range row {
		if row[i] != 0 || i >= len(old) {
			continue
		}
		if s := m.Server(old[i]); s != nil && s.State == dfs.ServerDown && !slices.Contains(row, old[i]) {
			row[i] = old[i]
		}
	}
}

// settle is the target in an order in which servers that stay keep their position.
func settle(old, target []dfs.NodeID) []dfs.NodeID {
	row := make([]dfs.NodeID, len(target))
	var rest []dfs.NodeID
	for _, id := range target {
		if i := slices.Index(old, id); id != 0 && i >= 0 {
			row[i] = id
		} else if id != 0 {
			rest = append(rest, id)
		}
	}
	for i := range row {
		if row[i] == 0 && len(rest) > 0 {
			row[i], rest = rest[0], rest[1:]
		}
	}
	return row
}

// holes fills the zero positions of a row with servers that take data, beside those
// that the row has.
func (a *assignment) holes(pg dfs.PG, home []dfs.NodeID) {
	w := row{order: a.ring.walk(pg)}
	for _, id := range home {
		if s := a.ring.index(id); s >= 0 {
			w.servers = append(w.servers, s)
		}
	}
	for i := range home {
		if home[i] != 0 {
			continue
		}
		s := a.pick(w)
		if s < 0 {
			return
		}
		home[i] = a.ring.servers[s].ID
		w.servers = append(w.servers, s)
		a.load[s]++
	}
}
