package placement

import (
	"math/bits"
	"slices"

	"dfs"
)

// Assign computes where all groups of a layout should live: row b is bucket b's
// servers by position, zero where there are not enough servers.
func Assign(servers []dfs.Server, l dfs.Layout, buckets uint32) [][]dfs.NodeID {
	return NewRing(servers).Assign(l, buckets)
}

// Target is one row of Assign. It costs as much as all of them, since shares are
// counted over all groups.
func Target(servers []dfs.Server, l dfs.Layout, bucket, buckets uint32) []dfs.NodeID {
	if bucket >= buckets {
		return nil
	}
	return Assign(servers, l, buckets)[bucket]
}

// Assign computes where all groups of a layout should live.
func (r *Ring) Assign(l dfs.Layout, buckets uint32) [][]dfs.NodeID {
	a := newAssignment(r, l, buckets)
	rows := make([]row, buckets)
	for b := range buckets {
		rows[b] = a.row(dfs.MakePG(l, uint16(b)), make([]int, 0, l.Width()))
	}
	a.level(rows)
	out := make([][]dfs.NodeID, buckets)
	for b := range rows {
		out[b] = make([]dfs.NodeID, l.Width())
		for i, s := range rows[b].servers {
			out[b][i] = r.servers[s].ID
		}
	}
	return out
}

// assignment is the load of each server while rows are made.
type assignment struct {
	ring  *Ring
	width int
	load  []int // fragments of each server
	limit []int // fragments that a server should not exceed
}

func newAssignment(r *Ring, l dfs.Layout, buckets uint32) *assignment {
	a := &assignment{ring: r, width: min(l.Width(), r.takers), load: make([]int, len(r.servers))}
	for _, share := range shares(r, a.width) {
		// A tenth more than the share, rounded up.
		n := (share*11*uint64(buckets) + 10*shareUnit - 1) / (10 * shareUnit)
		a.limit = append(a.limit, int(min(n, uint64(buckets))))
	}
	return a
}

// row is the servers of one group and the order in which it meets all others.
type row struct {
	servers []int // by position
	order   []int // walk
}

// row fills the group's row up to its width, after the servers that have is given.
func (a *assignment) row(pg dfs.PG, have []int) row {
	w := row{servers: have, order: a.ring.walk(pg)}
	for len(w.servers) < a.width {
		s := a.pick(w)
		w.servers = append(w.servers, s)
		a.load[s]++
	}
	return w
}

// pick chooses the next server of a row: the most distant domain first, then the
// first one on the walk below its limit, else the one that is least over it; -1 when
// the row has them all.
func (a *assignment) pick(w row) int {
	used := a.ring.count(w.servers)
	best, bestNear := -1, nearness{}
	for _, s := range w.order {
		if used.server[s] {
			continue
		}
		near := used.near(a.ring.domains[s])
		switch {
		case best < 0 || near.less(bestNear):
			best, bestNear = s, near
		case near == bestNear && a.load[best] >= a.limit[best] && a.excess(s, best) < 0:
			best = s
		}
	}
	return best
}

// excess compares how full two servers are: below the limit is all the same.
func (a *assignment) excess(s, t int) int {
	fullS, fullT := a.load[s] >= a.limit[s], a.load[t] >= a.limit[t]
	if !fullS || !fullT {
		switch {
		case fullS:
			return 1
		case fullT:
			return -1
		}
		return 0
	}
	// load[s]/limit[s] against load[t]/limit[t], without fractions
	x, y := a.load[s]*max(a.limit[t], 1), a.load[t]*max(a.limit[s], 1)
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// level moves fragments away from servers that are over their limit, where the
// rows' domains stay as distinct as they are. The walk alone gets stuck when the
// last groups find only few servers with room.
func (a *assignment) level(rows []row) {
	for s := range a.load {
		// Each round moves one fragment along a chain, or makes the chain shorter.
		for range len(a.load) * len(rows) {
			if a.load[s] <= a.limit[s] || !a.relieve(rows, s) {
				break
			}
		}
	}
}

// hop is one fragment that may move from a server to the next one of a chain.
type hop struct {
	from, bucket, position int
}

// relieve finds the shortest chain of servers from s to one with room, along which
// each can hand one fragment to the next, and moves them, the last one first. A move
// that an earlier one of the chain made impossible ends it: then the server before
// has room, which is progress too. False when there is no chain.
func (a *assignment) relieve(rows []row, s int) bool {
	hops := make([]hop, len(a.load))
	seen := make([]bool, len(a.load))
	seen[s] = true
	for queue := []int{s}; len(queue) > 0; queue = queue[1:] {
		from := queue[0]
		for b := range rows {
			for i, t := range rows[b].servers {
				if t != from {
					continue
				}
				for _, t := range a.replacements(rows[b], i) {
					if seen[t] {
						continue
					}
					seen[t], hops[t] = true, hop{from, b, i}
					if a.load[t] < a.limit[t] {
						a.moveAlong(rows, hops, s, t)
						return true
					}
					queue = append(queue, t)
				}
			}
		}
	}
	return false
}

func (a *assignment) moveAlong(rows []row, hops []hop, s, t int) {
	for t != s {
		h := hops[t]
		if !slices.Contains(a.replacements(rows[h.bucket], h.position), t) {
			return
		}
		rows[h.bucket].servers[h.position] = t
		a.load[h.from]--
		a.load[t]++
		t = h.from
	}
}

// replacements lists the servers, in the order of the walk, that could stand in the
// row at position i without making it less distinct.
func (a *assignment) replacements(w row, i int) []int {
	others := make([]int, 0, len(w.servers))
	others = append(append(others, w.servers[:i]...), w.servers[i+1:]...)
	used := a.ring.count(others)
	now := used.near(a.ring.domains[w.servers[i]])
	var out []int
	for _, t := range w.order {
		if !used.server[t] && t != w.servers[i] && !now.less(used.near(a.ring.domains[t])) {
			out = append(out, t)
		}
	}
	return out
}

// usage counts a row's servers by domain.
type usage struct {
	server map[int]bool
	zone   map[int]int
	host   map[int]int
}

func (r *Ring) count(servers []int) usage {
	u := usage{server: map[int]bool{}, zone: map[int]int{}, host: map[int]int{}}
	for _, s := range servers {
		u.server[s] = true
		u.zone[r.domains[s].zone]++
		u.host[r.domains[s].host]++
	}
	return u
}

// nearness is how many of a row's servers share a server's zone and host.
type nearness struct{ zone, host int }

func (n nearness) less(m nearness) bool {
	return n.zone < m.zone || n.zone == m.zone && n.host < m.host
}

func (u usage) near(d domain) nearness { return nearness{u.zone[d.zone], u.host[d.host]} }

// shareUnit is one fragment per group, in the fixed-point numbers of shares: floats
// are not the same on all machines.
const shareUnit = 1 << 20

// shares computes how many fragments of each group a server has on average if
// weights are followed as far as the domains allow: two zones share three copies 2
// to 1 whatever they weigh, and no server has two of one group.
func shares(r *Ring, width int) []uint64 {
	out := make([]uint64, len(r.servers))
	var all []int
	for s := range r.servers {
		if r.takes[s] {
			all = append(all, s)
		}
	}
	zones := group(all, func(s int) int { return r.domains[s].zone })
	zoneShare := split(uint64(width)*shareUnit, r.parts(zones))
	for z, members := range zones {
		hosts := group(members, func(s int) int { return r.domains[s].host })
		hostShare := split(zoneShare[z], r.parts(hosts))
		for h, servers := range hosts {
			single := group(servers, func(s int) int { return s })
			for i, share := range split(hostShare[h], r.parts(single)) {
				out[servers[i]] = share
			}
		}
	}
	return out
}

// group splits servers by key, in order of the first of each group.
func group(servers []int, key func(int) int) [][]int {
	var out [][]int
	at := map[int]int{}
	for _, s := range servers {
		i, ok := at[key(s)]
		if !ok {
			i = len(out)
			at[key(s)] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], s)
	}
	return out
}

// part is one of the domains that share a number of fragments.
type part struct {
	weight uint64
	size   uint64 // servers in it: it cannot have more fragments of one group
}

func (r *Ring) parts(groups [][]int) []part {
	out := make([]part, len(groups))
	for i, g := range groups {
		for _, s := range g {
			out[i].weight += uint64(r.servers[s].Weight)
			out[i].size++
		}
	}
	return out
}

// split divides total over the parts by weight, each between the least and the most
// that the walk will give it when it takes the least used domain first.
func split(total uint64, parts []part) []uint64 {
	low, high := bounds(total, parts)
	at := func(rate uint64) (sum uint64, out []uint64) {
		out = make([]uint64, len(parts))
		for i, p := range parts {
			hi, lo := bits.Mul64(rate, p.weight)
			v := hi<<32 | lo>>32 // rate is in units of 2^-32
			if hi>>32 != 0 {
				v = high[i]
			}
			out[i] = min(max(v, low[i]), high[i])
			sum += out[i]
		}
		return sum, out
	}
	// The sum grows with the rate: find the least rate that reaches the total.
	var lo, hi uint64 = 0, 1<<63 - 1
	for lo < hi {
		mid := lo + (hi-lo)/2
		if sum, _ := at(mid); sum < total {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	_, out := at(lo)
	return out
}

// bounds is the least and the most of each part: fragments are dealt round by
// round, one to each part that has a server left.
func bounds(total uint64, parts []part) (low, high []uint64) {
	low, high = make([]uint64, len(parts)), make([]uint64, len(parts))
	whole := total / shareUnit
	if total%shareUnit != 0 {
		whole++ // some groups give one more: the most is counted with it
	}
	dealt := total / shareUnit
	level := func(n uint64) (rounds, rest uint64) {
		for {
			var room uint64
			for _, p := range parts {
				if p.size > rounds {
					room++
				}
			}
			if room == 0 || n < room {
				return rounds, n
			}
			n -= room
			rounds++
		}
	}
	lowRounds, _ := level(dealt)
	highRounds, rest := level(whole)
	if rest > 0 {
		highRounds++
	}
	for i, p := range parts {
		low[i] = min(p.size, lowRounds) * shareUnit
		high[i] = min(p.size, highRounds) * shareUnit
	}
	return low, high
}
