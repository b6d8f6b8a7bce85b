package server

import (
	"errors"

	"dfs/meta"
)

// errMoved says that the rows were changed while somebody looked.
var errMoved = errors.New("the rows were changed meanwhile")

// Inspect calls fn with the rows of this master, whether it leads or not, and tells which
// index of the log they are at. An error when they were changed meanwhile. For tests.
func (s *Server) Inspect(fn func(meta.View) error) (index uint64, err error) {
	index = s.node.Position().Index
	if err := s.node.Frozen(fn); err != nil {
		return 0, err
	}
	if s.node.Position().Index != index {
		return 0, errMoved
	}
	return index, nil
}
