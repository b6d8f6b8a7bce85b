package dfs

import "time"

// DrillMax is for how long a drill may take a server away.
const DrillMax = 10 * time.Minute

// ServerState is what the masters decided about a chunk server.
type ServerState uint8

// States of a chunk server. Gossip suggests, a Raft command decides.
const (
	ServerUp    ServerState = iota + 1 // in acting sets
	ServerDown                         // out of acting sets until it is back
	ServerDrain                        // serves reads, gets no new chunks
	ServerGone                         // removed for ever
)

func (s ServerState) String() string {
	switch s {
	case ServerUp:
		return "up"
	case ServerDown:
		return "down"
	case ServerDrain:
		return "drain"
	case ServerGone:
		return "gone"
	}
	return "unknown"
}

// Server is one chunk server of the cluster map.
type Server struct {
	ID     NodeID
	Name   string // unique in the cluster, for people: chunk-1
	Addr   string // host:port of its gRPC service
	Host   string // failure domains, smallest first after the server itself
	Zone   string
	Weight uint32 // share of the data; by default its capacity in GiB, at least 1
	State  ServerState

	// What an admin has decided, whatever the server says of itself when it joins again.
	Leaving  bool  // it is being drained: when it was down and is back, it goes on with that
	Weighted bool  // Weight stays
	Until    int64 // Unix seconds up to which it may be down without being replaced; 0: no such time
}

// ClusterMap is the servers and all acting sets, under one epoch number.
type ClusterMap struct {
	Cluster ClusterID
	Epoch   Epoch
	Buckets uint32 // placement groups per layout, fixed at bootstrap
	Servers []Server
	// Home holds, for each placement group of each layout in use, the servers that
	// were decided for it: this is what the masters store and what goes over the
	// wire. The position is the fragment index; zero is a position that no server
	// was found for yet. A server that is down keeps its position.
	Home map[PG][]NodeID
	// Acting holds the servers that the group's chunks live on now. It is Home with
	// a hole (zero) for each server that is not there; Derive computes it.
	Acting map[PG][]NodeID
	// Settings of the whole cluster that are set, see Settings. Nobody changes it.
	Settings map[string]string
}

// Derive computes Acting from Home and the servers' states: a position acts when
// its server is up or draining. Whoever makes or decodes a map calls it once,
// before the map is shared.
func (m *ClusterMap) Derive() {
	live := make(map[NodeID]bool, len(m.Servers))
	for i := range m.Servers {
		if st := m.Servers[i].State; st == ServerUp || st == ServerDrain {
			live[m.Servers[i].ID] = true
		}
	}
	m.Acting = make(map[PG][]NodeID, len(m.Home))
	for pg, home := range m.Home {
		acting := make([]NodeID, len(home))
		for i, id := range home {
			if live[id] {
				acting[i] = id
			}
		}
		m.Acting[pg] = acting
	}
}

// Server finds a server by id; nil when the map has none.
func (m *ClusterMap) Server(id NodeID) *Server {
	for i := range m.Servers {
		if m.Servers[i].ID == id {
			return &m.Servers[i]
		}
	}
	return nil
}

// ActingOf is the acting set of the chunk's placement group, nil when its
// layout has none yet.
func (m *ClusterMap) ActingOf(c ChunkID) []NodeID {
	if m.Buckets == 0 {
		return nil
	}
	return m.Acting[c.PG(m.Buckets)]
}
