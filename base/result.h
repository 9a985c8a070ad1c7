// Result<T>: a value or an Error, with std::expected's member names (GCC 12 lacks it in C++20).
#pragma once

#include <type_traits>
#include <utility>
#include <variant>

#include "base/error.h"

namespace lamina {

template <typename T>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit by design
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT
  template <typename U>
  requires(std::is_convertible_v<U&&, T> && !std::is_same_v<std::remove_cvref_t<U>, Result> &&
           !std::is_same_v<std::remove_cvref_t<U>, Error> &&
           !std::is_same_v<std::remove_cvref_t<U>, T>) Result(U&& value)
      : state_(std::in_place_index<0>, std::forward<U>(value)) {}  // NOLINT

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  Error& error() & { return std::get<1>(state_); }
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

  template <typename U>
  T value_or(U&& fallback) && {
    return has_value() ? std::move(*this).value() : static_cast<T>(std::forward<U>(fallback));
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;

  Result() = default;
  Result(Error error) : error_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  bool has_value() const { return error_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  void value() const {}
  void operator*() const {}

  Error& error() & { return std::get<1>(error_); }
  const Error& error() const& { return std::get<1>(error_); }
  Error&& error() && { return std::get<1>(std::move(error_)); }

 private:
  std::variant<std::monostate, Error> error_;
};

// Drops an error on purpose; the reason is for the reader.
template <typename T>
void ignore_error(const Result<T>&, const char* /*reason*/) {}

}  // namespace lamina

#define LAMINA_CONCAT_INNER(a, b) a##b
#define LAMINA_CONCAT(a, b) LAMINA_CONCAT_INNER(a, b)

// Statements, never expressions: a return out of a braced initialiser leaks what was built (g++
// 12).
#define RETURN_IF_ERROR(expr)                          \
  do {                                                 \
    if (auto lamina_result = (expr); !lamina_result) { \
      return std::move(lamina_result).error();         \
    }                                                  \
  } while (false)

#define ASSIGN_OR_RETURN(decl, expr) \
  ASSIGN_OR_RETURN_IMPL(LAMINA_CONCAT(lamina_result_, __LINE__), decl, expr)
#define ASSIGN_OR_RETURN_IMPL(tmp, decl, expr) \
  auto tmp = (expr);                           \
  if (!tmp) return std::move(tmp).error();     \
  decl = std::move(tmp).value()

// The same, adding what the caller was doing.
#define RETURN_IF_ERROR_WITH(expr, what)                          \
  do {                                                            \
    if (auto lamina_result = (expr); !lamina_result) {            \
      return std::move(lamina_result).error().with_context(what); \
    }                                                             \
  } while (false)
#define ASSIGN_OR_RETURN_WITH(decl, expr, what) \
  ASSIGN_OR_RETURN_WITH_IMPL(LAMINA_CONCAT(lamina_result_, __LINE__), decl, expr, what)
#define ASSIGN_OR_RETURN_WITH_IMPL(tmp, decl, expr, what)     \
  auto tmp = (expr);                                          \
  if (!tmp) return std::move(tmp).error().with_context(what); \
  decl = std::move(tmp).value()
