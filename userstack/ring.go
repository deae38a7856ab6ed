package userstack

// ring is an unbounded FIFO queue. It keeps the memory that it once needed.
type ring[T any] struct {
	items []T
	head  int
	n     int
}

func (r *ring[T]) push(x T) {
	if r.n == len(r.items) {
		grown := make([]T, max(8, 2*len(r.items)))
		for i := range r.n {
			grown[i] = r.items[(r.head+i)%len(r.items)]
		}
		r.items, r.head = grown, 0
	}
	r.items[(r.head+r.n)%len(r.items)] = x
	r.n++
}

// first returns the oldest item without removing it, or the zero value.
func (r *ring[T]) first() (x T) {
	if r.n > 0 {
		x = r.items[r.head]
	}
	return x
}

// pop removes and returns the oldest item, or returns the zero value.
func (r *ring[T]) pop() (x T) {
	if r.n == 0 {
		return x
	}
	x, r.items[r.head] = r.items[r.head], x
	r.head = (r.head + 1) % len(r.items)
	r.n--
	return x
}
