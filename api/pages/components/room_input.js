// A native field that keeps what was typed while the page around it changes.
export default {
  template: `
  <select v-if="options.length" v-model="now" v-bind="attrs">
    <option v-for="one in options" :key="one.value" :value="one.value">{{ one.text }}</option>
  </select>
  <textarea v-else-if="kind === 'area'" v-model="now" rows="3" v-bind="attrs"></textarea>
  <input v-else-if="kind === 'checkbox'" type="checkbox" v-model="now" v-bind="attrs">
  <input v-else :type="kind" :value="now" @input="now = $event.target.value" v-bind="attrs">`,
  inheritAttrs: false,
  props: { kind: String, given: [String, Boolean], options: Array, attrs: Object },
  emits: ["changed"],
  data() {
    return { now: this.given };
  },
  watch: {
    now(value) {
      this.$emit("changed", value);
    },
  },
};
