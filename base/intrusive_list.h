// IntrusiveList<T>: a doubly linked list whose links live in its elements (T derives from
// ListNode<Tag>).
//
// Owns nothing. An element is on at most one list per Tag. Not thread-safe: the list's lock guards
// the links too.
#pragma once

#include "base/check.h"

namespace caisson {

template <typename Tag = void>
class ListNode {
 public:
  ListNode() = default;
  ListNode(const ListNode&) = delete;
  ListNode& operator=(const ListNode&) = delete;
  ~ListNode() { DCHECK(!linked()); }
  bool linked() const { return next_ != nullptr; }

 private:
  template <typename T, typename U>
  friend class IntrusiveList;
  ListNode* next_ = nullptr;
  ListNode* previous_ = nullptr;
};

template <typename T, typename Tag = void>
class IntrusiveList {
  using Node = ListNode<Tag>;

 public:
  IntrusiveList() { head_.next_ = head_.previous_ = &head_; }
  ~IntrusiveList() {
    DCHECK(empty());
    head_.next_ = head_.previous_ = nullptr;
  }
  IntrusiveList(const IntrusiveList&) = delete;
  IntrusiveList& operator=(const IntrusiveList&) = delete;

  bool empty() const { return head_.next_ == &head_; }
  T* front() { return empty() ? nullptr : from(head_.next_); }
  T* next(T& element) {
    Node* node = static_cast<Node&>(element).next_;
    return node == &head_ ? nullptr : from(node);
  }
  void push_back(T& element) { insert_before(head_, element); }
  void push_front(T& element) { insert_before(*head_.next_, element); }
  void remove(T& element) {
    Node& node = element;
    DCHECK(node.linked());
    node.previous_->next_ = node.next_;
    node.next_->previous_ = node.previous_;
    node.next_ = node.previous_ = nullptr;
  }
  T* pop_front() {
    T* element = front();
    if (element != nullptr) remove(*element);
    return element;
  }

 private:
  static T* from(Node* node) { return static_cast<T*>(node); }
  void insert_before(Node& where, Node& node) {
    DCHECK(!node.linked());
    node.next_ = &where;
    node.previous_ = where.previous_;
    where.previous_->next_ = &node;
    where.previous_ = &node;
  }
  Node head_;
};

}  // namespace caisson
