package urns

// Access patterns of side inputs (beam_runner_api.proto, StandardSideInputTypes).
const (
	SideInputIterable = "beam:side_input:iterable:v1"
	SideInputMultimap = "beam:side_input:multimap:v1"
)

// Protocols of user state (StandardUserStateTypes).
const (
	UserStateBag         = "beam:user_state:bag:v1"
	UserStateMultimap    = "beam:user_state:multimap:v1"
	UserStateOrderedList = "beam:user_state:ordered_list:v1"
)
