package userv1_test

import (
	"errors"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

func TestRulesRefuseWhatTheyShould(t *testing.T) {
	t.Parallel()
	validator, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 101)
	for name, tt := range map[string]struct {
		message proto.Message
		field   string // of the one violation; empty: the message is fine
	}{
		"create":                       {&userv1.CreateUserRequest{User: &userv1.User{Email: "ann@example.com"}}, ""},
		"create without a user":        {&userv1.CreateUserRequest{}, "user"},
		"create without an email":      {&userv1.CreateUserRequest{User: &userv1.User{DisplayName: "Ann"}}, "user"},
		"create with a broken email":   {&userv1.CreateUserRequest{User: &userv1.User{Email: "ann"}}, "user.email"},
		"create with a long name":      {&userv1.CreateUserRequest{User: &userv1.User{Email: "ann@example.com", DisplayName: long}}, "user.display_name"},
		"update of the name only":      {&userv1.UpdateUserRequest{User: &userv1.User{Id: "1", DisplayName: "Ann"}}, ""},
		"update without an id":         {&userv1.UpdateUserRequest{User: &userv1.User{DisplayName: "Ann"}}, "user"},
		"update with a broken email":   {&userv1.UpdateUserRequest{User: &userv1.User{Id: "1", Email: "ann"}}, "user.email"},
		"get":                          {&userv1.GetUserRequest{Id: "1"}, ""},
		"get without an id":            {&userv1.GetUserRequest{}, "id"},
		"delete without an id":         {&userv1.DeleteUserRequest{}, "id"},
		"list":                         {&userv1.ListUsersRequest{}, ""},
		"list of the largest page":     {&userv1.ListUsersRequest{PageSize: 1000}, ""},
		"list of a page too large":     {&userv1.ListUsersRequest{PageSize: 1001}, "page_size"},
		"list of a negative page":      {&userv1.ListUsersRequest{PageSize: -1}, "page_size"},
		"watch":                        {&userv1.WatchUsersRequest{}, ""},
		"watch with a token too large": {&userv1.WatchUsersRequest{ResumeToken: strings.Repeat("x", 257)}, "resume_token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := validator.Validate(tt.message)
			if tt.field == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			invalid, ok := errors.AsType[*protovalidate.ValidationError](err)
			if !ok || len(invalid.Violations) != 1 {
				t.Fatalf("got %v, want one violation of %q", err, tt.field)
			}
			if got := protovalidate.FieldPathString(invalid.Violations[0].Proto.GetField()); got != tt.field {
				t.Errorf("got a violation of %q, want %q", got, tt.field)
			}
		})
	}
}

// Clients repeat what the proto calls idempotent, so a wrong level loses or doubles users.
func TestIdempotencyLevels(t *testing.T) {
	t.Parallel()
	want := map[protoreflect.Name]descriptorpb.MethodOptions_IdempotencyLevel{
		"CreateUser": descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN,
		"GetUser":    descriptorpb.MethodOptions_NO_SIDE_EFFECTS,
		"ListUsers":  descriptorpb.MethodOptions_NO_SIDE_EFFECTS,
		"UpdateUser": descriptorpb.MethodOptions_IDEMPOTENT,
		"DeleteUser": descriptorpb.MethodOptions_IDEMPOTENT,
		"WatchUsers": descriptorpb.MethodOptions_NO_SIDE_EFFECTS,
	}
	methods := userv1.File_user_v1_user_proto.Services().ByName("UserService").Methods()
	if methods.Len() != len(want) {
		t.Errorf("%d methods, want %d: decide the level of each", methods.Len(), len(want))
	}
	for i := range methods.Len() {
		m := methods.Get(i)
		options, ok := m.Options().(*descriptorpb.MethodOptions)
		if !ok || options.GetIdempotencyLevel() != want[m.Name()] {
			t.Errorf("%s: got %v, want %v", m.Name(), options.GetIdempotencyLevel(), want[m.Name()])
		}
	}
}
