package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"dfs"
	"dfs/chunk/code"
	"dfs/rpc"
)

// fetchPiece reads [lo, hi) of data fragment want, or makes it of k others, whatever is
// there first: the others are asked when the fragment cannot be had, is late or is known to
// be, and one more in place of each of them that fails or is late.
func (fs *FS) fetchPiece(ctx context.Context, m *dfs.ClusterMap, e dfs.Extent, want, lo, hi int) (int, []byte, error) {
	layout := e.Chunk.Layout()
	// Whole pages, so that all pieces are equally long.
	lo -= lo % dfs.PageBytes
	hi = min((hi+dfs.PageBytes-1)&^(dfs.PageBytes-1), code.FragmentLen(layout, int(e.RecordLen)))
	all := fs.sources(m, e.Chunk, 0)
	bound := fs.health.hedge(all, hi-lo, time.Now())
	p := &pieces{fs: fs, e: e, want: want, lo: lo, hi: hi, got: make([][]byte, layout.Width()), answers: make(chan piece, len(all)), left: all}
	defer p.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if i := slices.IndexFunc(all, func(s source) bool { return s.position == want }); i >= 0 {
		src := all[i]
		p.left = slices.Delete(all, i, i+1)
		if src.rank < rankSlow {
			p.direct = true
			p.ask(ctx, src)
		} else {
			p.left = append(p.left, src) // the others are sooner there
		}
	}
	t := time.NewTimer(bound)
	defer t.Stop()
	for wait := bound; ; {
		for p.lacks() && len(p.left) > 0 && ctx.Err() == nil {
			src := p.left[0]
			p.left = p.left[1:]
			p.ask(ctx, src)
		}
		if p.asked == 0 {
			return 0, nil, p.failure(ctx)
		}
		select {
		case a := <-p.answers:
			if p.take(a); p.got[want] != nil || p.have == layout.Data() {
				return p.result()
			}
		case <-t.C:
			if wait < hedgeMax && !fs.health.mayHedge() {
				t.Reset(hedgeMax - wait)
				wait = hedgeMax
				continue
			}
			p.round, p.direct, p.timely = p.round+1, false, 0
			t.Reset(wait)
		}
	}
}

// pieces is one read of a data fragment, from its server or from k others.
type pieces struct {
	fs      *FS
	e       dfs.Extent
	want    int
	lo, hi  int
	left    []source // not asked yet, best first
	answers chan piece
	wg      sync.WaitGroup

	got    [][]byte // by position
	have   int      // of them
	asked  int      // have not answered
	direct bool     // among them the one that has the fragment, and it is not late
	timely int      // of the others, those that are not late
	round  int      // those asked in earlier ones are late
	absent int      // answered that they have not got it
	err    error    // the last one
}

// piece is an answer.
type piece struct {
	src   source
	round int
	data  []byte
	err   error
}

// lacks reports whether another server must be asked.
func (p *pieces) lacks() bool {
	return !p.direct && p.have+p.timely < p.e.Chunk.Layout().Data()
}

func (p *pieces) ask(ctx context.Context, src source) {
	p.asked++
	if !p.direct {
		p.timely++
	}
	round := p.round
	p.wg.Go(func() {
		off, data, err := p.fs.readFragment(ctx, src, p.e, p.lo, p.hi)
		if err == nil && (off != p.lo || len(data) != p.hi-p.lo) {
			rpc.Free(data)
			data, err = nil, fmt.Errorf("server %s answered %d bytes at %d: %w", src.server, len(data), off, dfs.EIO)
		}
		p.answers <- piece{src, round, data, err}
	})
}

func (p *pieces) take(a piece) {
	p.asked--
	switch {
	case p.direct: // then nobody else is asked
		p.direct = false
	case a.round == p.round:
		p.timely--
	}
	if a.err == nil {
		p.got[a.src.position] = a.data
		p.have++
		return
	}
	if rpc.IsVerdict(a.err) {
		p.absent++
	}
	p.err = a.err
}

func (p *pieces) result() (int, []byte, error) {
	if data := p.got[p.want]; data != nil {
		p.got[p.want] = nil
		return p.lo, data, nil
	}
	data, err := code.Rebuild(p.e.Chunk.Layout(), p.got, p.want)
	if err != nil {
		return 0, nil, err
	}
	return p.lo, data, nil
}

func (p *pieces) failure(ctx context.Context) error {
	if p.err == nil {
		p.err = context.Cause(ctx)
	}
	layout := p.e.Chunk.Layout()
	err := fmt.Errorf("%d of %d fragments can be read: %w", p.have, layout.Data(), p.err)
	if p.absent > layout.Parity() {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return err
}

// close waits for those that have not answered, whose context is over, and frees what
// nobody needs.
func (p *pieces) close() {
	p.wg.Wait()
	for range p.asked {
		rpc.Free((<-p.answers).data)
	}
	for _, b := range p.got {
		rpc.Free(b)
	}
}
