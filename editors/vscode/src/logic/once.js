'use strict';

/** Lets a message through once, until something has worked again: typing asks the server at every pause. */
class Once {
  constructor() {
    this.last = '';
  }

  /**
   * Whether this message is to be shown.
   * @param {string} message
   */
  fresh(message) {
    if (message === this.last) return false;
    this.last = message;
    return true;
  }

  worked() {
    this.last = '';
  }
}

module.exports = { Once };
