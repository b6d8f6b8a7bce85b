package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dfs"
)

// metrics are the figures that are counted as things happen.
type metrics struct {
	mutations prometheus.Counter
	seconds   prometheus.Histogram
	refused   *prometheus.CounterVec // by reason
}

// mutate counts a request that began at start.
func (m *metrics) mutate(changes int, start time.Time) {
	m.mutations.Add(float64(changes))
	m.seconds.Observe(time.Since(start).Seconds())
}

// newMetrics makes a master's own figures known to Prometheus; most are computed when
// they are asked for.
func newMetrics(r prometheus.Registerer, s *Server) *metrics {
	m := &metrics{
		mutations: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "dfs", Subsystem: "master", Name: "mutations_total", Help: "Changes that clients asked for.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "dfs", Subsystem: "master", Name: "mutate_seconds", Help: "Time of a request with changes, until it is answered.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "dfs", Subsystem: "master", Name: "failures_total", Help: "Requests that failed and may be tried again, by reason.",
		}, []string{"reason"}),
	}
	r.MustRegister(m.mutations, m.seconds, m.refused, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "dfs", Subsystem: "master", Name: "raft_dropped_total", Help: "Batches of Raft messages that a full queue did not take.",
	}, func() float64 { return float64(s.transport.dropped.Load()) }))
	gauge := func(name, help string, fn func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "dfs", Subsystem: "master", Name: name, Help: help}, fn))
	}
	gauge("leading", "1 while this master leads.", func() float64 {
		if s.node.Status().Leading {
			return 1
		}
		return 0
	})
	gauge("term", "Raft's term.", func() float64 { return float64(s.node.Status().Term) })
	gauge("applied_index", "Index of the last applied entry of the log.", func() float64 { return float64(s.node.Applied()) })
	gauge("store_disk_bytes", "Bytes of the rows on disk.", func() float64 { d, _ := s.node.Usage(); return float64(d) })
	gauge("store_memory_bytes", "Bytes that the store keeps in memory.", func() float64 { _, m := s.node.Usage(); return float64(m) })
	gauge("sessions", "Sessions of clients that this leader knows; 0 on others.", func() float64 {
		l := s.leading.Load()
		if l == nil {
			return 0
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return float64(len(l.sessions))
	})
	gauge("map_epoch", "Epoch of the cluster map that this master has.", func() float64 { return float64(s.mapNow().Epoch) })
	gauge("raft_queue", "Batches of Raft messages that wait to be sent.", func() float64 { return float64(s.transport.queued()) })
	return m
}

// keepIdentity writes down which cluster admitted this master.
func (s *Server) keepIdentity(id identity) error { return writeIdentity(s.cfg.FS, s.cfg.Dir, id) }

// capacity is the raw bytes of the servers that take part, as gossip tells.
func (s *Server) capacity() (total, free uint64) {
	g := s.gossipNode()
	if g == nil {
		return 0, 0
	}
	m := s.mapNow()
	for _, member := range g.Members() {
		server := m.Server(member.ID)
		if server == nil || server.State == dfs.ServerGone {
			continue
		}
		total += member.Total
		if server.State == dfs.ServerUp && member.Alive {
			free += member.Free
		}
	}
	return total, free
}
