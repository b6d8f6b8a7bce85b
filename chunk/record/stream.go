package record

import (
	"fmt"
	"io"

	"dfs"
)

// Stream reads the records of a fragment one after the other, as they lie in its file,
// and checks them.
type Stream struct {
	r   io.Reader
	off uint32 // of the next record
	buf []byte
}

// NewStream reads from r, which is at the record that begins at off.
func NewStream(r io.Reader, off uint32) *Stream { return &Stream{r: r, off: off} }

// Off is where the next record begins in the file.
func (s *Stream) Off() uint32 { return s.off }

// Next returns a record and its payload, or a hole (Header.Hole) and none, which are good until the next call; io.EOF at
// the end. Errors of what is there wrap ErrFormat, ErrTooNew or dfs.EIO.
func (s *Stream) Next() (Header, []byte, error) {
	if n, err := s.fill(0, dfs.PageBytes); err != nil {
		if n > 0 {
			err = fmt.Errorf("record at %d is cut off: %w: %w", s.off, dfs.EIO, err)
		}
		return Header{}, nil, err
	}
	if h, is := DecodeHole(s.buf, s.off); is {
		if err := s.skip(int64(h.Hole) - dfs.PageBytes); err != nil {
			return Header{}, nil, fmt.Errorf("hole at %d: %w: %w", s.off, dfs.EIO, err)
		}
		s.off += h.Hole
		return h, nil, nil
	}
	h, err := Decode(s.buf, s.off)
	if err != nil {
		return Header{}, nil, err
	}
	// Behind the payload of a large record the file may end before the page does.
	if n, err := s.fill(len(s.buf), int(h.Space())); n < int(h.Head()+h.Len) {
		return Header{}, nil, fmt.Errorf("record at %d is cut off: %w: %w", s.off, dfs.EIO, err)
	}
	if n := len(h.Intents); n > 0 { // the buffer may be another one now
		h.Intents = s.buf[dfs.PageBytes-n : dfs.PageBytes]
	}
	payload := s.buf[h.Head():][:h.Len]
	if err := dfs.CheckPages(0, payload, h.CRCs); err != nil {
		return Header{}, nil, fmt.Errorf("record at %d: %w", s.off, err)
	}
	s.off += h.Space()
	return h, payload, nil
}

// skip passes over n bytes; what a file lacks of them at its end is as good as there.
func (s *Stream) skip(n int64) error {
	if f, ok := s.r.(io.Seeker); ok {
		_, err := f.Seek(n, io.SeekCurrent)
		return err
	}
	_, err := io.CopyN(io.Discard, s.r, n)
	return err
}

// fill reads to the buffer from have to want, and answers how much is there.
func (s *Stream) fill(have, want int) (int, error) {
	if cap(s.buf) < want {
		s.buf = append(make([]byte, 0, max(want, 2*cap(s.buf))), s.buf[:have]...)
	}
	s.buf = s.buf[:want]
	n, err := io.ReadFull(s.r, s.buf[have:])
	return have + n, err
}
