package client_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"dfs"
	"dfs/client"
	testcluster "dfs/test/cluster"
)

// The benchmarks run three masters and three chunk servers in this process, over
// loopback and on the real disk.

func benchFS(b *testing.B) *client.FS {
	b.Helper()
	c := testcluster.Start(b, testcluster.Options{ChunkServers: 3})
	fs, err := client.Dial(bg, client.Config{Masters: c.Masters(), Host: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := fs.Close(); err != nil {
			b.Error(err)
		}
	})
	return fs
}

// BenchmarkFsync is 4 KiB and fsync(2), by one program and by eight.
func BenchmarkFsync(b *testing.B) {
	for _, threads := range []int{1, 8} {
		b.Run(fmt.Sprint(threads), func(b *testing.B) {
			fs := benchFS(b)
			p := random(4096, 1)
			var files []*client.File
			for i := range threads {
				files = append(files, create(b, fs, fmt.Sprint(i)))
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			var wg sync.WaitGroup
			for _, f := range files {
				wg.Go(func() {
					defer f.Release()
					for i := int64(0); left.Add(-1) >= 0; i++ {
						if _, err := f.Write(bg, p, i%1000*4096); err != nil {
							b.Error(err)
						}
						if err := f.Fsync(bg, true); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			st := fs.Stats().Append
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "fsync/s")
			b.ReportMetric(float64(b.N)/float64(st.Commits), "fsyncs/commit")
			b.ReportMetric(float64(st.AppendTime.Microseconds())/float64(st.Records), "us/append")
			b.ReportMetric(float64(st.CommitTime.Microseconds())/float64(st.Commits), "us/commit")
		})
	}
}

// BenchmarkCreate is open(O_CREAT), write of 4 KiB, close.
func BenchmarkCreate(b *testing.B) {
	for _, threads := range []int{1, 8} {
		b.Run(fmt.Sprint(threads), func(b *testing.B) {
			fs := benchFS(b)
			p := random(4096, 1)
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			var wg sync.WaitGroup
			for i := range threads {
				wg.Go(func() {
					for k := 0; left.Add(-1) >= 0; k++ {
						f, _, err := fs.Create(bg, root, dfs.RootIno, fmt.Sprintf("%d-%d", i, k), 0o644, oWrite|oCreate)
						if err != nil {
							b.Error(err)
							return
						}
						if _, err := f.Write(bg, p, 0); err != nil {
							b.Error(err)
						}
						if err := f.Flush(bg); err != nil {
							b.Error(err)
						}
						f.Release()
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "files/s")
		})
	}
}

// BenchmarkStream is writing and reading 256 MiB in pieces of 1 MiB.
func BenchmarkStream(b *testing.B) {
	const size = 256 << 20
	p := random(1<<20, 1)
	b.Run("write", func(b *testing.B) {
		fs := benchFS(b)
		b.SetBytes(size)
		b.ResetTimer()
		for i := range b.N {
			f := create(b, fs, fmt.Sprint(i))
			for off := int64(0); off < size; off += 1 << 20 {
				writeAt(b, f, p, off)
			}
			if err := f.Flush(bg); err != nil {
				b.Fatal(err)
			}
			f.Release()
		}
	})
	b.Run("read", func(b *testing.B) {
		fs := benchFS(b)
		f := create(b, fs, "x")
		for off := int64(0); off < size; off += 1 << 20 {
			writeAt(b, f, p, off)
		}
		if err := f.Flush(bg); err != nil {
			b.Fatal(err)
		}
		buf := make([]byte, 1<<20)
		b.SetBytes(size)
		b.ResetTimer()
		for range b.N {
			for off := int64(0); off < size; off += 1 << 20 {
				if n, err := f.Read(bg, buf, off); err != nil || n != 1<<20 {
					b.Fatal(n, err)
				}
			}
		}
		f.Release()
	})
}
