package append

import "sync/atomic"

// Buffer is memory that several hold: the file that shows it to readers, a record
// that gRPC is sending. It is recycled when the last has dropped it.
type Buffer struct {
	Bytes []byte
	refs  atomic.Int32
	free  func(*Buffer)
}

// NewBuffer makes a buffer with one holder. free is called once, when nobody holds
// it any more, on any goroutine; it must not block.
func NewBuffer(b []byte, free func(*Buffer)) *Buffer {
	buf := &Buffer{Bytes: b, free: free}
	buf.refs.Store(1)
	return buf
}

// Hold adds a holder; the caller must be one.
func (b *Buffer) Hold() { b.refs.Add(1) }

// Drop takes a holder away.
func (b *Buffer) Drop() {
	if b.refs.Add(-1) == 0 && b.free != nil {
		b.free(b)
	}
}
