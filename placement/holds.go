package placement

import (
	"fmt"
	"slices"
	"strings"

	"dfs"
)

// Tolerance is what may be lost at the same time with no byte lost, when the data
// lies where the ring wants it.
type Tolerance struct {
	Servers int // any so many servers
	Hosts   int // any so many hosts with all their servers
	Zones   int // any so many zones with all their servers
}

func (t Tolerance) String() string {
	var parts []string
	for _, p := range []struct {
		n    int
		noun string
	}{{t.Servers, "server"}, {t.Hosts, "host"}, {t.Zones, "zone"}} {
		switch {
		case p.n == 1:
			parts = append(parts, "1 "+p.noun)
		case p.n > 1:
			parts = append(parts, fmt.Sprintf("%d %ss", p.n, p.noun))
		}
	}
	switch len(parts) {
	case 0:
		return "survives no loss"
	case 1:
		return "survives the loss of " + parts[0]
	}
	return "survives the loss of " + strings.Join(parts[:len(parts)-1], ", ") + " or " + parts[len(parts)-1]
}

// Survives computes what a layout tolerates on these servers. Servers that drain or
// are gone do not count.
func Survives(servers []dfs.Server, l dfs.Layout) Tolerance {
	r := NewRing(servers)
	if r.takers < l.Width() {
		return Tolerance{}
	}
	// The least distinct row decides: as many fragments as the walk ever puts in one
	// domain, and in the next one, ...
	perServer, perHost, perZone := make([]int, l.Width()), []int{}, []int{}
	for i := range perServer {
		perServer[i] = 1
	}
	for _, home := range r.Assign(l, sampleBuckets) {
		hosts, zones := map[int]int{}, map[int]int{}
		for _, id := range home {
			d := r.domains[r.index(id)]
			hosts[d.host]++
			zones[d.zone]++
		}
		perHost, perZone = worst(perHost, hosts), worst(perZone, zones)
	}
	return Tolerance{
		Servers: losable(perServer, l.Parity()),
		Hosts:   losable(perHost, l.Parity()),
		Zones:   losable(perZone, l.Parity()),
	}
}

// sampleBuckets is how many rows Survives looks at: the counts depend on the domains'
// sizes far more than on the group.
const sampleBuckets = 64

// worst keeps, by rank, the largest numbers of fragments in one domain.
func worst(so []int, counts map[int]int) []int {
	row := make([]int, 0, len(counts))
	for _, n := range counts {
		row = append(row, n)
	}
	slices.SortFunc(row, func(a, b int) int { return b - a })
	for i, n := range row {
		if i < len(so) {
			so[i] = max(so[i], n)
		} else {
			so = append(so, n)
		}
	}
	return so
}

// losable is how many domains, the fullest first, hold at most parity fragments.
func losable(counts []int, parity int) int {
	lost := 0
	for i, n := range counts {
		if lost += n; lost > parity {
			return i
		}
	}
	return len(counts)
}

// Holds reports why these servers cannot hold the layout, and what would help; nil
// when they can. Servers that drain or are gone do not count.
func Holds(servers []dfs.Server, l dfs.Layout) error {
	if !l.Valid() {
		return fmt.Errorf("layout %#04x is not one that this version stores", uint16(l))
	}
	n := NewRing(servers).takers
	if n >= l.Width() {
		return nil
	}
	have := fmt.Sprintf("the cluster has %d", n)
	if n == 0 {
		have = "the cluster has none"
	}
	help := fmt.Sprintf("add %d more", l.Width()-n)
	if n > 0 {
		best, _ := dfs.Copies(min(n, dfs.CopiesMax))
		help += fmt.Sprintf(", or take %s, which %s", best, Survives(servers, best))
	}
	return fmt.Errorf("%s needs %d chunk servers, %s: %s", l, l.Width(), have, help)
}

// Misplaced counts the groups of a layout that do not live on the servers that the
// ring wants, whatever the positions.
func Misplaced(m *dfs.ClusterMap, l dfs.Layout) int {
	n := 0
	for b, want := range Assign(m.Servers, l, m.Buckets) {
		home, ok := m.Home[dfs.MakePG(l, uint16(b))]
		if !ok {
			continue
		}
		have := slices.Sorted(slices.Values(home))
		if slices.Sort(want); !slices.Equal(have, want) {
			n++
		}
	}
	return n
}
