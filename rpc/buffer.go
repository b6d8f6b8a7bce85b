package rpc

import (
	"math/bits"
	"sync"
)

// Pooled buffers have a power of two as their capacity, between these.
const (
	bufferBitsMin = 12 // 4 KiB: below it, the garbage collector is as cheap
	bufferBitsMax = 23 // 8 MiB: MessageBytesMax
)

// buffers holds one pool for each capacity. It is package state as it has none
// that anybody could observe: a buffer is as good as a new one.
var buffers [bufferBitsMax - bufferBitsMin + 1]sync.Pool

// headers recycles the slice headers that sync.Pool needs as pointers.
var headers = sync.Pool{New: func() any { return new([]byte) }}

// Alloc returns n bytes of unknown content, from a pool when that is worth it.
// The buffer may be given back with Free, once, or left to the garbage collector.
func Alloc(n int) []byte {
	if n < 1<<bufferBitsMin/2 || n > 1<<bufferBitsMax {
		return make([]byte, n)
	}
	class := max(bits.Len(uint(n-1)), bufferBitsMin)
	if h, ok := buffers[class-bufferBitsMin].Get().(*[]byte); ok {
		b := *h
		*h = nil
		headers.Put(h)
		return b[:n]
	}
	return make([]byte, n, 1<<class)
}

// Free gives back a buffer that Alloc returned, or the data of a message that
// this package decoded, whatever it has been resliced to as long as it still
// begins where it began. The caller must hold the only reference: a buffer that
// is freed while somebody reads it shows them other bytes. A buffer whose capacity
// Alloc never gives is ignored; any other one becomes the pool's.
func Free(b []byte) {
	c := cap(b)
	if c < 1<<bufferBitsMin || c > 1<<bufferBitsMax || c&(c-1) != 0 {
		return
	}
	h := headers.Get().(*[]byte)
	*h = b[:c]
	buffers[bits.Len(uint(c))-1-bufferBitsMin].Put(h)
}
