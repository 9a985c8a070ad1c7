// Values that are made once for each key, by the first who asks; others who ask meanwhile wait.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/guarded.h"
#include "base/result.h"

namespace lamina::builder {

// Any thread. A failure is not kept: the next who asks tries again.
template <typename T>
class Memo {
 public:
  // `make` is called without any lock but that of the key.
  template <typename Make>
  Result<T> get(const std::string& key, Make make) {
    std::shared_ptr<Slot> slot;
    {
      auto slots = slots_.lock();
      std::shared_ptr<Slot>& place = (*slots)[key];
      if (!place) place = std::make_shared<Slot>();
      slot = place;
    }
    auto value = slot->lock();
    if (!*value) {
      ASSIGN_OR_RETURN(*value, make());
    }
    return **value;
  }

  template <typename F>
  void for_each(F f) {
    auto slots = slots_.lock();
    for (auto& [key, slot] : *slots) {
      auto value = slot->lock();
      if (*value) f(**value);
    }
  }

 private:
  using Slot = Guarded<std::optional<T>>;
  Guarded<std::map<std::string, std::shared_ptr<Slot>>> slots_;
};

}  // namespace lamina::builder
