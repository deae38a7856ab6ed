package server

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

// operationError is the reason why an operation of the API failed, with its HTTP status.
type operationError struct {
	status int
	text   string
}

func (r *operationError) Error() string { return r.text }

func notFound(format string, args ...any) error {
	return &operationError{http.StatusNotFound, fmt.Sprintf(format, args...)}
}

func conflict(format string, args ...any) error {
	return &operationError{http.StatusConflict, fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return &operationError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// statusOf returns the HTTP status that an error is answered with.
func statusOf(err error) int {
	if r, ok := errors.AsType[*operationError](err); ok {
		return r.status
	}
	if isStoreError(err) {
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}

// checkTime refuses times whose year JSON cannot represent in every time zone.
func checkTime(at time.Time) error {
	if year := at.UTC().Year(); !at.IsZero() && (year < 1 || year > 9998) {
		return badRequest("the year %d is out of range", year)
	}
	return nil
}

const (
	defaultPage = 1000
	maxPage     = 10_000
)

// pageRequest selects a part of a list: at most limit entries with IDs greater than after.
type pageRequest struct {
	after int64
	limit int
}

// page returns the requested part of a map, ordered by ID.
func page[V, T any](m map[int64]V, w pageRequest, keep func(V) bool, show func(V) T) Page[T] {
	p := Page[T]{Items: []T{}}
	limit := min(cmp.Or(w.limit, defaultPage), maxPage)
	for _, id := range slices.Sorted(maps.Keys(m)) {
		if id <= w.after || !keep(m[id]) {
			continue
		}
		if len(p.Items) == limit {
			return p
		}
		p.Items = append(p.Items, show(m[id]))
		p.Next = id
	}
	p.Next = 0
	return p
}

func keepAll[V any](V) bool { return true }
