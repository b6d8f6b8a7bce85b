// Package placement decides on which servers a placement group should live. It is
// pure: servers, weights, failure domains and a group go in, an ordered list of
// servers comes out, the same on every machine and in every version. What it
// computes is as good as a disk format: golden files in testdata hold it fixed.
//
// Each server has points on a ring of 64 bits, in proportion to its weight. A
// group walks clockwise from its own point. At each step it takes, of the servers
// in the least used zones, of those on the least used hosts, the first one that
// has not more than its share; so the fragments of a group are as far apart as the
// topology allows, first of all, and no server has over a tenth more than its share
// as far as that leaves a choice.
//
// Target is where a group should be; Next says what the masters should write down
// now, which differs while servers are away and data has not been moved.
package placement

import (
	"cmp"
	"slices"

	"dfs"
)

// Ring is the points of the servers that take data. It is immutable.
type Ring struct {
	servers []dfs.Server // in order of id, without those that are gone
	takes   []bool       // which of them take data; only these have points
	takers  int          // their number
	domains []domain     // of each server
	points  []point      // in order of hash
}

type point struct {
	hash   uint64
	server int32 // index in servers
}

// domain is the failure domains of one server as small numbers.
type domain struct{ zone, host int }

// pointsMax is how many points the heaviest server has, at least a fourth of it.
// More points spread better and cost memory and time.
const pointsMax = 512

// NewRing makes the ring of the servers that are up or down; a server that drains
// or is gone gets no data. The order of servers does not matter.
func NewRing(servers []dfs.Server) *Ring {
	return newRing(servers, func(s dfs.ServerState) bool { return s == dfs.ServerUp || s == dfs.ServerDown })
}

func newRing(servers []dfs.Server, takes func(dfs.ServerState) bool) *Ring {
	r := &Ring{}
	for _, s := range servers {
		if s.State != dfs.ServerGone {
			s.Weight = max(s.Weight, 1)
			r.servers = append(r.servers, s)
		}
	}
	slices.SortFunc(r.servers, func(a, b dfs.Server) int { return cmp.Compare(a.ID, b.ID) })
	r.number()
	for _, s := range r.servers {
		r.takes = append(r.takes, takes(s.State))
	}
	shift := r.shift()
	for i, s := range r.servers {
		if !r.takes[i] {
			continue
		}
		r.takers++
		base := mix(uint64(s.ID))
		for n := range max(uint64(s.Weight)<<16>>shift, 1) {
			r.points = append(r.points, point{mix(base + n), int32(i)})
		}
	}
	slices.SortFunc(r.points, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.server, b.server))
	})
	return r
}

// shift scales weights to numbers of points, weight<<16>>shift, by powers of four:
// the scale, and with it the points of every server, changes only when the heaviest
// server's weight passes such a power. Within a scale a server's points do not
// depend on the others, which is what makes movement minimal.
func (r *Ring) shift() uint {
	var heaviest uint64
	for i, s := range r.servers {
		if r.takes[i] {
			heaviest = max(heaviest, uint64(s.Weight))
		}
	}
	shift := uint(0)
	for heaviest<<16>>shift > pointsMax {
		shift += 2
	}
	return shift
}

// number gives each zone and each host (of a zone) a small number. A server without
// a host is a host of its own; all servers without a zone are in one zone.
func (r *Ring) number() {
	type host struct {
		zone, name string
		alone      dfs.NodeID
	}
	zones, hosts := map[string]int{}, map[host]int{}
	for _, s := range r.servers {
		h := host{zone: s.Zone, name: s.Host}
		if s.Host == "" {
			h.alone = s.ID
		}
		if _, ok := zones[s.Zone]; !ok {
			zones[s.Zone] = len(zones)
		}
		if _, ok := hosts[h]; !ok {
			hosts[h] = len(hosts)
		}
		r.domains = append(r.domains, domain{zones[s.Zone], hosts[h]})
	}
}

// mix is splitmix64's finalizer (Steele et al. 2014). It never changes.
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// walk lists all servers that take data in the order in which they are met clockwise from the
// group's point.
func (r *Ring) walk(pg dfs.PG) []int {
	order := make([]int, 0, r.takers)
	seen := make([]bool, len(r.servers))
	from, _ := slices.BinarySearchFunc(r.points, mix(uint64(pg)<<32), func(p point, h uint64) int { return cmp.Compare(p.hash, h) })
	for i := 0; i < len(r.points) && len(order) < r.takers; i++ {
		s := int(r.points[(from+i)%len(r.points)].server)
		if !seen[s] {
			seen[s] = true
			order = append(order, s)
		}
	}
	return order
}

// index finds a server in the ring, -1 when it is not there.
func (r *Ring) index(id dfs.NodeID) int {
	i, ok := slices.BinarySearchFunc(r.servers, id, func(s dfs.Server, id dfs.NodeID) int { return cmp.Compare(s.ID, id) })
	if !ok {
		return -1
	}
	return i
}
