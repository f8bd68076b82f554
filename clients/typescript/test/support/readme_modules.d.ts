// The declarations that the snippets of README.md need: objects of earlier snippets, and of other
// packages no more than the functions that are called.

declare const presence: import("@presenced/client/browser").BrowserPresence;
declare const watch: import("@presenced/client").UsersWatch;
declare const token: string;

declare module "vue" {
  export function shallowRef<T>(value: T): { value: T };
  export function onScopeDispose(stop: () => void): void;
}

declare module "svelte/store" {
  export function readable<T>(value: T, start: (set: (value: T) => void) => () => void): unknown;
}

declare module "zustand" {
  export function create<T>(make: () => T): { setState(state: T, replace: true): void };
}

declare module "react-native" {
  export const AppState: {
    addEventListener(event: "change", listener: (state: string) => void): void;
  };
}
