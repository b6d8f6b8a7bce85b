package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"dfs/chunk"
)

// register adds the store's figures to a registry.
func (s *Server) register(r *prometheus.Registry) error {
	for _, f := range []struct {
		name, help string
		counter    bool
		value      func(chunk.Stats) uint64
	}{
		{"dfs_chunk_appends_total", "Records appended.", true, func(st chunk.Stats) uint64 { return st.Appends }},
		{"dfs_chunk_appended_bytes_total", "Payload of the records appended.", true, func(st chunk.Stats) uint64 { return st.AppendedBytes }},
		{"dfs_chunk_syncs_total", "Syncs of fragment files.", true, func(st chunk.Stats) uint64 { return st.Syncs }},
		{"dfs_chunk_reads_total", "Reads, failed ones included.", true, func(st chunk.Stats) uint64 { return st.Reads }},
		{"dfs_chunk_read_bytes_total", "Bytes read and checked.", true, func(st chunk.Stats) uint64 { return st.ReadBytes }},
		{"dfs_chunk_bad_reads_total", "Reads that failed by their checksum or the disk.", true, func(st chunk.Stats) uint64 { return st.BadReads }},
		{"dfs_chunk_failed_chunks_total", "Chunks ended by a failed sync.", true, func(st chunk.Stats) uint64 { return st.Failed }},
		{"dfs_chunk_fragments", "Fragment files held.", false, func(st chunk.Stats) uint64 { return st.Fragments }},
		{"dfs_chunk_damaged_fragments", "Fragment files that cannot be served.", false, func(st chunk.Stats) uint64 { return st.Damaged }},
		{"dfs_chunk_open_files", "Fragment files open.", false, func(st chunk.Stats) uint64 { return st.OpenFiles }},
		{"dfs_chunk_disk_bytes", "Bytes of the disks.", false, func(st chunk.Stats) uint64 { return st.Total }},
		{"dfs_chunk_free_bytes", "Bytes free above the reserve.", false, func(st chunk.Stats) uint64 { return st.Free }},
	} {
		value := func() float64 { return float64(f.value(s.store.Stats())) }
		var c prometheus.Collector
		if f.counter {
			c = prometheus.NewCounterFunc(prometheus.CounterOpts{Name: f.name, Help: f.help}, value)
		} else {
			c = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: f.name, Help: f.help}, value)
		}
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dfs_chunk_map_epoch", Help: "Epoch of the cluster map that the server knows.",
	}, func() float64 {
		if m := s.clusterMap.Load(); m != nil {
			return float64(m.Epoch)
		}
		return 0
	}))
}
